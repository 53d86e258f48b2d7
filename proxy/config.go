package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
)

// config is what the command line and the environment say.
type config struct {
	addr    netip.AddrPort // where to accept; an unspecified address means every address of both families
	mode    string         // contract.ModeNAT or contract.ModeTProxy
	admin   netip.AddrPort // where health is answered; as addr
	loops   int            // event loops; 0: as many as suit the machine
	drain   time.Duration  // how long running connections may go on after SIGTERM
	log     flags.Log
	version bool // print the version and end
}

var settings = append([]flags.Flag[config]{
	{
		Name: "addr", Env: "TPROXY_ADDR", Preset: fmt.Sprintf("0.0.0.0:%d", contract.ProxyPort),
		Usage: "`address` to accept connections on; 0.0.0.0, [::] or nothing before the port means IPv4 and IPv6",
		Set:   flags.Listen(func(c *config) *netip.AddrPort { return &c.addr }),
	},
	{
		Name: "mode", Env: "TPROXY_MODE", Preset: contract.ModeNAT,
		Usage: "how the plugin intercepts in this pod: `nat|tproxy`",
		Set:   flags.OneOf(func(c *config) *string { return &c.mode }, contract.ModeNAT, contract.ModeTProxy),
	},
	{
		Name: "admin", Env: "TPROXY_ADMIN", Preset: fmt.Sprintf(":%d", contract.AdminPort),
		Usage: "`address` that answers /healthz and /readyz",
		Set:   flags.Listen(func(c *config) *netip.AddrPort { return &c.admin }),
	},
	{
		Name: "drain", Env: "TPROXY_DRAIN", Preset: "25s",
		Usage: "`time` that running connections have after SIGTERM before they are reset",
		Set:   flags.Time(func(c *config) *time.Duration { return &c.drain }),
	},
	{
		Name: "loops", Env: "TPROXY_LOOPS", Preset: "0",
		Usage: fmt.Sprintf("`number` of event loops, each of which keeps a CPU busy at most; 0 is half the CPUs that this process may use, %d at most", mostLoops),
		Set: func(c *config, text string) (err error) {
			if c.loops, err = strconv.Atoi(text); err != nil || c.loops < 0 || c.loops > maxPipes {
				return fmt.Errorf("want a number from 0 to %d", maxPipes)
			}
			return nil
		},
	},
	{
		Name: "version", Preset: "false", Bool: true, Usage: "print the version and end",
		Set: flags.Boolean(func(c *config) *bool { return &c.version }),
	},
}, flags.LogFlags("TPROXY_", func(c *config) *flags.Log { return &c.log })...)

// mostLoops is enough for what a pod's network brings.
const mostLoops = 4

// loopsFor is how many loops suit a machine: the other half of the CPUs is for
// the application, without which a loop has nothing to do.
func loopsFor(cpus int) int { return min(max(1, cpus/2), mostLoops) }

// parseConfig reads the flags and the environment. The error names every
// fault; usage gets the text of --help.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (c config, err error) {
	const intro = "tproxy-proxy relays the connections that the tproxy-cni plugin intercepts in its pod."
	err = flags.Parse(&c, settings, intro, args, getenv, usage)
	if c.addr.IsValid() && c.addr.Port() == c.admin.Port() {
		err = errors.Join(err, fmt.Errorf("--addr and --admin are both on port %d", c.addr.Port()))
	}
	return c, err
}
