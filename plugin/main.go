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
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	buildinfo "github.com/tproxy-cni/tproxy-cni/internal/version"
)

// supported are the versions of the CNI specification that the plugin speaks.
var supported = version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status. A runtime passes no arguments; those are for a
// person.
func run(args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet(contract.PluginType, flag.ContinueOnError)
	fs.SetOutput(stderr)
	showVersion := fs.Bool("version", false, "print the version and exit")
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
		fmt.Fprintln(stdout, contract.PluginType, buildinfo.String())
		return 0
	}
	p := plugin{stdout, stderr}
	funcs := skel.CNIFuncs{Add: p.add, Check: p.check, Del: p.del, Status: p.status, GC: p.gc}
	e := boundStdin()
	if e == nil {
		e = skel.PluginMainFuncsWithError(funcs, supported, about())
	}
	if e != nil {
		// skel's own errors quote its input as it is.
		e.Msg, e.Details = printable.Line(e.Msg), printable.Line(e.Details)
		if err := e.Print(); err != nil {
			fmt.Fprintln(stderr, e, err)
		}
		return 1
	}
	return 0
}

// about is what skel prints for a person who runs the plugin by hand.
func about() string {
	return contract.PluginType + " " + buildinfo.String() +
		"\nA CNI plugin: a container runtime runs it if a conflist names it, after the plugin that creates the interface."
}

// mostStdin is how much is read, in bytes. A pod's annotations are 256 KiB at
// most, up to 1.5 MiB as JSON; the rest is the node's configuration.
const mostStdin = 4 << 20

// boundStdin reads stdin up to mostStdin and gives skel a pipe with that, because
// skel reads without a limit. Without a verb, and for VERSION, it reads nothing:
// stdin may be a terminal.
func boundStdin() *types.Error {
	if verb := os.Getenv("CNI_COMMAND"); verb == "" || verb == "VERSION" {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(os.Stdin, mostStdin+1))
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read stdin: "+err.Error(), "")
	}
	if len(data) > mostStdin {
		return types.NewError(types.ErrDecodingFailure, fmt.Sprintf("stdin has more than %d MiB", mostStdin>>20), "")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return types.NewError(types.ErrIOFailure, "read stdin: "+err.Error(), "")
	}
	go func() {
		_, _ = w.Write(data)
		w.Close()
	}()
	os.Stdin = r
	return nil
}
