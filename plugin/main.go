// tproxy-cni is a chained CNI plugin: at ADD it programs a pod's network
// namespace so that the pod's inbound TCP connections go through its sidecar,
// which then reaches the application from the client's own address.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	ours "github.com/tproxy-cni/tproxy-cni/internal/version"
)

// supported are the versions of the CNI specification that we speak.
var supported = version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status. A runtime gives no arguments; who types some is
// a person.
func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet(contract.PluginType, flag.ContinueOnError)
	fs.SetOutput(stderr)
	showVersion := fs.Bool("version", false, "print the version and end")
	fs.Usage = func() {
		fmt.Fprintln(stderr, about())
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() > 0:
		fs.Usage()
		return 2
	case *showVersion:
		fmt.Fprintln(stdout, contract.PluginType, ours.String())
		return 0
	}
	p := plugin{stdout, stderr}
	funcs := skel.CNIFuncs{Add: p.add, Check: p.check, Del: p.del, Status: p.status, GC: p.gc}
	if e := skel.PluginMainFuncsWithError(funcs, supported, about()); e != nil {
		if err := e.Print(); err != nil {
			fmt.Fprintln(stderr, e, err)
		}
		return 1
	}
	return 0
}

// about is what skel prints for a person who runs the plugin by hand.
func about() string {
	return contract.PluginType + " " + ours.String() +
		"\nA CNI plugin: a container runtime runs it, as a conflist says that names it behind the plugin which makes the interface."
}
