package main

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
)

// config is the settings from the command line and the environment.
type config struct {
	addr    netip.AddrPort // an unspecified address means every address of both families
	wait    time.Duration  // see sniff
	drain   time.Duration  // how long running connections may continue after SIGTERM
	mptcp   bool
	log     flags.Log
	version bool // print the version and exit
}

// parseConfig reads the flags and the environment; usage gets the text of --help.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (c config, err error) {
	s := flags.New("ECHO_", "echo-server reports to every client the address that it came from, over TCP and HTTP, then echoes.")
	s.Add("addr", fmt.Sprintf(":%d", contract.EchoPort),
		"`address` to listen on; 0.0.0.0, [::] or no address before the port means IPv4 and IPv6", flags.Listen(&c.addr))
	s.Add("wait", "1s",
		"`time` a silent client has to start an HTTP request before it is greeted; 0s: greet every client at once and serve no HTTP",
		flags.Time(&c.wait))
	s.Add("drain", "10s", "`time` after SIGTERM before remaining connections are reset", flags.Time(&c.drain))
	s.Add("mptcp", "false", "listen with Multipath TCP: `true|false`", flags.Boolean(&c.mptcp))
	s.Log(&c.log)
	s.Version(&c.version)
	return c, s.Parse(args, getenv, usage)
}
