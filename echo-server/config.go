package main

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
)

// config is what the command line and the environment say.
type config struct {
	addr    netip.AddrPort // an unspecified address means every address of both families
	wait    time.Duration  // see sniff
	drain   time.Duration  // how long running connections may go on after SIGTERM
	mptcp   bool
	log     flags.Log
	version bool // print the version and end
}

var settings = append([]flags.Flag[config]{
	{
		Name: "addr", Env: "ECHO_ADDR", Preset: fmt.Sprintf(":%d", contract.EchoPort),
		Usage: "`address` to listen on; nothing, 0.0.0.0 or [::] before the port means IPv4 and IPv6",
		Set:   flags.Listen(func(c *config) *netip.AddrPort { return &c.addr }),
	},
	{
		Name: "wait", Env: "ECHO_WAIT", Preset: "1s",
		Usage: "`time` for a client to begin an HTTP request before it is greeted; one that says anything else is greeted at once; 0s: greet everyone at once and answer no HTTP",
		Set:   flags.Time(func(c *config) *time.Duration { return &c.wait }),
	},
	{
		Name: "drain", Env: "ECHO_DRAIN", Preset: "10s",
		Usage: "`time` that running connections have after SIGTERM before they are reset",
		Set:   flags.Time(func(c *config) *time.Duration { return &c.drain }),
	},
	{
		Name: "mptcp", Env: "ECHO_MPTCP", Preset: "false",
		Usage: "listen with Multipath TCP: `true|false`",
		Set:   flags.Boolean(func(c *config) *bool { return &c.mptcp }),
	},
	{
		Name: "version", Preset: "false", Bool: true, Usage: "print the version and end",
		Set: flags.Boolean(func(c *config) *bool { return &c.version }),
	},
}, flags.LogFlags("ECHO_", func(c *config) *flags.Log { return &c.log })...)

// parseConfig reads the flags and the environment; usage gets the text of --help.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (c config, err error) {
	const intro = "echo-server tells every client which address it came from, over TCP and HTTP, then echoes."
	return c, flags.Parse(&c, settings, intro, args, getenv, usage)
}
