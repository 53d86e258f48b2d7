package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
)

// runCheck is the command check: one check of the pod for a proxy that may be any, and
// need not run yet. It is made to be a startup probe: a kubelet shows what it prints.
func runCheck(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var c config
	s := flags.New("TPROXY_", "tproxy-proxy check ends with status 0 if the plugin has prepared this pod for a proxy, "+
		"else with 1, the reason and what to do. It must run as the proxy's user.")
	addAddr(s, &c)
	addMode(s, &c)
	switch err := s.Parse(args, getenv, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy check: %v\n", err)
		return 2
	}
	pod := probe.Pod{Mode: c.mode, Addr: c.addr, Own: dial.NewAddrs(), Listeners: &probe.OwnListeners{}, Patience: probe.Patience}
	ctx := context.Background()
	fault := pod.Prepared(ctx)
	if fault == nil {
		fault = pod.Port(ctx)
	}
	if fault != nil {
		fmt.Fprintf(stderr, "not prepared: %s\n", fault.Text)
		if fault.Cure != "" {
			fmt.Fprintf(stderr, "what to do: %s\n", fault.Cure)
		}
		return 1
	}
	fmt.Fprintf(stdout, "prepared: %s mode, for uid %d\n", c.mode, os.Getuid())
	return 0
}
