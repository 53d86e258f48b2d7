package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// config is what the command line and the environment say.
type config struct {
	addr      netip.AddrPort // an unspecified address means every address of both families
	wait      time.Duration  // see sniff
	drain     time.Duration  // how long running connections may go on after SIGTERM
	mptcp     bool
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
		"addr", "ECHO_ADDR", fmt.Sprintf(":%d", contract.EchoPort),
		"`address` to listen on; nothing, 0.0.0.0 or [::] before the port means IPv4 and IPv6",
		func(c *config, s string) (err error) { c.addr, err = parseAddr(s); return err },
	},
	{
		"wait", "ECHO_WAIT", "1s",
		"`time` for a client to begin an HTTP request before it is greeted; one that says anything else is greeted at once; 0s: greet everyone at once and answer no HTTP",
		func(c *config, s string) (err error) { c.wait, err = parseTime(s); return err },
	},
	{
		"drain", "ECHO_DRAIN", "10s",
		"`time` that running connections have after SIGTERM before they are reset",
		func(c *config, s string) (err error) { c.drain, err = parseTime(s); return err },
	},
	{
		"mptcp", "ECHO_MPTCP", "false",
		"listen with Multipath TCP: `true|false`",
		func(c *config, s string) (err error) {
			if c.mptcp, err = strconv.ParseBool(s); err != nil {
				return errors.New("want true or false")
			}
			return nil
		},
	},
	{
		"log-format", "ECHO_LOG_FORMAT", "text",
		"`text|json`",
		func(c *config, s string) error {
			if c.logFormat = s; s != "text" && s != "json" {
				return errors.New("want text or json")
			}
			return nil
		},
	},
}

// parseConfig reads the flags, then for each that is absent its environment
// variable. The error names every fault. usage gets the text of --help.
func parseConfig(args []string, getenv func(string) string, usage io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("echo-server", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&c.version, "version", false, "print the version and end")
	for _, s := range settings {
		fs.String(s.flag, s.preset, s.usage+" ("+s.env+")")
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(usage)
			fmt.Fprintln(usage, "echo-server tells every client which address it came from, over TCP and HTTP, then echoes.")
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
		return netip.AddrPort{}, errors.New("want an IP address with a port of 1-65535, such as :3000, 127.0.0.1:3000 or [fd00::1]:3000")
	}
	return ap, nil
}

func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("want a time such as 10s, 500ms or 0s")
	}
	return d, nil
}
