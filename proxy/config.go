package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
)

// config is the settings from the command line and the environment.
type config struct {
	addr    netip.AddrPort // to accept connections on; an unspecified address means all of both families
	mode    string         // contract.ModeNAT or contract.ModeTProxy
	admin   netip.AddrPort // for health checks; as addr
	loops   int            // event loops; 0: loopsFor
	trusted trusted        // whose connections begin with a PROXY header
	front   frontConfig
	logOpen time.Duration // log a connection that has lived so long; 0: none
	half    time.Duration // reset a half-closed connection on which nothing moves for so long; 0: never
	hold    string        // path of the socket of tproxy-proxy hold; empty: none
	drain   time.Duration // how long running connections may continue after SIGTERM
	log     flags.Log
	version bool // print the version and exit
}

// mostLoops is enough for a pod's network.
const mostLoops = 4

// loopsFor is the default number of loops on so many CPUs. The other half is for the
// application, without which a loop has nothing to do.
func loopsFor(cpus int) int { return min(max(1, cpus/2), mostLoops) }

// parseConfig reads the flags and the environment. The error is flag.ErrHelp after
// --help, whose text goes to usage; otherwise it names every fault.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (c config, err error) {
	s := flags.New("TPROXY_", "tproxy-proxy relays the connections that the tproxy-cni plugin intercepts in its pod.")
	addAddr(s, &c)
	addMode(s, &c)
	addAdmin(s, &c.admin)
	s.Add("drain", "25s", "`time` after SIGTERM before remaining connections are reset", flags.Time(&c.drain))
	s.Add("loops", "0", fmt.Sprintf("`number` of event-loop threads; 0 means half the CPUs, at most %d", mostLoops),
		flags.Number(&c.loops, 0, relay.MaxPipes))
	s.Add("half-closed-timeout", "1h", "`time` after which a connection is reset of which one side has finished, if nothing moves; 0 means never",
		flags.Time(&c.half))
	s.Add("log-open", "0", "log connections also when they have been open for this `time`, not only at their end; 0 means never", flags.Time(&c.logOpen))
	s.Add("hold", "", "`unix:PATH` of tproxy-proxy hold: it has all connections from this sidecar's SIGTERM to the start of the next", unixPath(&c.hold))
	addHeaders(s, &c)
	s.Log(&c.log)
	s.Version(&c.version)
	err = s.Parse(args, getenv, usage)
	if c.addr.IsValid() && c.addr.Port() == c.admin.Port() {
		err = errors.Join(err, fmt.Errorf("--addr and --admin are both on port %d", c.addr.Port()))
	}
	return c, errors.Join(err, c.checkHeaders())
}

// The flags that commands share with the sidecar.

func addAdmin(s *flags.Set, to *netip.AddrPort) {
	s.Add("admin", fmt.Sprintf(":%d", contract.AdminPort), "`address` of the sidecar for /healthz, /readyz, /metrics and its commands", flags.Listen(to))
}

func addAddr(s *flags.Set, c *config) {
	s.Add("addr", fmt.Sprintf("0.0.0.0:%d", contract.ProxyPort),
		"`address` to accept connections on; 0.0.0.0, [::] or no address before the port means IPv4 and IPv6", flags.Listen(&c.addr))
}

func addMode(s *flags.Set, c *config) {
	s.Add("mode", contract.ModeNAT, "the pod's interception mode, as the plugin was told: `nat|tproxy`",
		flags.OneOf(&c.mode, contract.ModeNAT, contract.ModeTProxy))
}
