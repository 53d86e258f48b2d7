package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// config is what the command line and the environment say.
type config struct {
	addr      netip.AddrPort // where to accept; an unspecified address means every address of both families
	mode      string         // contract.ModeNAT or contract.ModeTProxy
	admin     netip.AddrPort // where health is answered; as addr
	drain     time.Duration  // how long running connections may go on after SIGTERM
	logLevel  slog.Level
	logFormat string // "text" or "json"
	version   bool   // print the version and end
}

// setting is one value that has a flag and an environment variable.
type setting struct {
	flag, env, preset, usage string

	// set puts the text into c or returns what is allowed instead.
	set func(c *config, text string) error
}

var settings = []setting{
	{
		"addr", "TPROXY_ADDR", fmt.Sprintf("0.0.0.0:%d", contract.ProxyPort),
		"`address` to accept connections on; 0.0.0.0, [::] or nothing before the port means IPv4 and IPv6",
		func(c *config, s string) (err error) { c.addr, err = parseAddr(s); return err },
	},
	{
		"mode", "TPROXY_MODE", contract.ModeNAT,
		"how the plugin intercepts in this pod: `nat|tproxy`",
		func(c *config, s string) (err error) {
			c.mode, err = oneOf(s, contract.ModeNAT, contract.ModeTProxy)
			return err
		},
	},
	{
		"admin", "TPROXY_ADMIN", fmt.Sprintf(":%d", contract.AdminPort),
		"`address` that answers /healthz and /readyz",
		func(c *config, s string) (err error) { c.admin, err = parseAddr(s); return err },
	},
	{
		"drain", "TPROXY_DRAIN", "25s",
		"`time` that running connections have after SIGTERM before they are reset",
		func(c *config, s string) (err error) { c.drain, err = parseDrain(s); return err },
	},
	{
		"log-level", "TPROXY_LOG_LEVEL", "info",
		"`debug|info|warn|error`",
		func(c *config, s string) error {
			if c.logLevel.UnmarshalText([]byte(s)) != nil {
				return errors.New("want debug, info, warn or error")
			}
			return nil
		},
	},
	{
		"log-format", "TPROXY_LOG_FORMAT", "text",
		"`text|json`",
		func(c *config, s string) (err error) { c.logFormat, err = oneOf(s, "text", "json"); return err },
	},
}

// parseConfig reads the flags, then for each that is absent its environment
// variable. The error names every fault. usage gets the text of --help.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("tproxy-proxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&c.version, "version", false, "print the version and end")
	for _, s := range settings {
		fs.String(s.flag, s.preset, s.usage+" ("+s.env+")")
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(usage)
			fmt.Fprintln(usage, "tproxy-proxy relays the connections that the tproxy-cni plugin intercepts in its pod.")
			fs.PrintDefaults()
		}
		return c, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var faults []error
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	for _, s := range settings {
		name, text := "--"+s.flag, fs.Lookup(s.flag).Value.String()
		if env := getenv(s.env); env != "" && !given[s.flag] {
			name, text = s.env, env
		}
		if err := s.set(&c, text); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: %w", name, text, err))
		}
	}
	if c.addr.IsValid() && c.addr.Port() == c.admin.Port() {
		faults = append(faults, fmt.Errorf("--addr and --admin are both on port %d", c.addr.Port()))
	}
	return c, errors.Join(faults...)
}

// parseAddr reads a literal address with a port; without an address it is all
// of both families.
func parseAddr(s string) (netip.AddrPort, error) {
	if strings.HasPrefix(s, ":") {
		s = "[::]" + s
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, errors.New("want an IP address with a port of 1-65535, such as 0.0.0.0:5000, [fd00::1]:5000 or :5000")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func parseDrain(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("want a time such as 25s, 2m or 0s")
	}
	return d, nil
}

func oneOf(s string, allowed ...string) (string, error) {
	for _, a := range allowed {
		if s == a {
			return s, nil
		}
	}
	return "", fmt.Errorf("want %s", strings.Join(allowed, " or "))
}
