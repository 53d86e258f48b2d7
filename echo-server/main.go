// Command echo-server is the application of the demo and the tests: it reports
// to every client the peer and local address that it saw, then echoes.
//
//	$ nc 192.168.2.2 3000
//	peer=192.168.1.2:40312 local=192.168.2.2:3000
//
//	$ curl http://192.168.2.2:3000
//	peer=192.168.1.2:40314 local=192.168.2.2:3000
//
//	$ curl -H 'Accept: application/json' http://192.168.2.2:3000
//	{"peer":"192.168.1.2:40316","local":"192.168.2.2:3000"}
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run returns the exit status: 0 after an orderly shutdown, 2 for a bad setting, 1
// for any other failure.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	c, err := parseConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "echo-server: %v\n", err)
		return 2
	case c.version:
		fmt.Fprintln(stdout, "echo-server", version.String())
		return 0
	}
	log := c.log.New(stderr)

	ctx, kill, stop := drain.Signals(log, c.drain)
	defer stop()

	ln, err := listen(ctx, c)
	if err != nil {
		log.Error("cannot serve", "err", err)
		return 1
	}
	log.Info("listening", "addr", plain(ln.Addr()), "mptcp", c.mptcp, "uid", os.Getuid(), "version", version.String())
	newServer(log, ln, c.wait).serve(ctx, kill, c.drain)
	drain.LogBounded(func() { log.Info("stopped") })
	return 0
}

// listen opens the listener. Go would use MPTCP where the kernel has it: ordinary
// applications do not, and splice(2) needs plain TCP.
func listen(ctx context.Context, c config) (*net.TCPListener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(c.mptcp)
	ln, err := lc.Listen(ctx, "tcp", c.addr.String())
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}
