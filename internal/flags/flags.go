// Package flags reads a program's settings: from its command line and, for each
// flag that is absent there, from an environment variable. Settings are data, a
// list of [Flag]; everything that is wrong is found at once.
package flags

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Flag is one setting of a program whose configuration is a C.
type Flag[C any] struct {
	Name   string
	Env    string // its environment variable; none if empty
	Preset string // the value where nobody says one; if empty, Set is not called then
	Usage  string // the value's name in `backquotes`
	Bool   bool   // may stand without a value

	// Set puts the text into c or returns what is wanted instead.
	Set func(c *C, text string) error
}

// Parse reads list into c. The error is flag.ErrHelp after --help, when usage
// has got the text that intro begins; otherwise it names every fault.
func Parse[C any](c *C, list []Flag[C], intro string, args []string, getenv func(string) string, usage io.Writer) error {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, f := range list {
		text := f.Usage
		if f.Env != "" {
			text += " (" + f.Env + ")"
		}
		if f.Bool {
			fs.Bool(f.Name, f.Preset == "true", text)
		} else {
			fs.String(f.Name, f.Preset, text)
		}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(usage)
			fmt.Fprintln(usage, intro)
			fs.PrintDefaults()
		}
		return err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var faults []error
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	for _, f := range list {
		name, text := "--"+f.Name, fs.Lookup(f.Name).Value.String()
		if !given[f.Name] {
			if env := getenv(f.Env); f.Env != "" && env != "" && !serviceLink(f.Env, env) {
				name, text = f.Env, env
			} else if f.Preset == "" {
				continue
			}
		}
		if err := f.Set(c, text); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: %w", name, text, err))
		}
	}
	return errors.Join(faults...)
}

// serviceLink tells whether a variable is Kubernetes' own: for a Service named
// tproxy-admin, every pod beside it gets TPROXY_ADMIN_PORT=tcp://10.0.0.1:80.
func serviceLink(name, value string) bool {
	scheme, _, ok := strings.Cut(value, "://")
	return ok && strings.HasSuffix(name, "_PORT") && slices.Contains([]string{"tcp", "udp", "sctp"}, scheme)
}

// Text is a Set for any text but the empty one.
func Text[C any](field func(*C) *string) func(*C, string) error {
	return func(c *C, s string) error {
		if *field(c) = s; s == "" {
			return errors.New("want a value")
		}
		return nil
	}
}

// OneOf is a Set for one of a few words.
func OneOf[C any](field func(*C) *string, words ...string) func(*C, string) error {
	return func(c *C, s string) error {
		for _, w := range words {
			if s == w {
				*field(c) = s
				return nil
			}
		}
		return fmt.Errorf("want %s", strings.Join(words, " or "))
	}
}

// Boolean is a Set for true and false.
func Boolean[C any](field func(*C) *bool) func(*C, string) error {
	return func(c *C, s string) (err error) {
		if *field(c), err = strconv.ParseBool(s); err != nil {
			return errors.New("want true or false")
		}
		return nil
	}
}

// Time is a Set for a duration that is not negative.
func Time[C any](field func(*C) *time.Duration) func(*C, string) error {
	return func(c *C, s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return errors.New("want a time such as 25s, 500ms or 0s")
		}
		*field(c) = d
		return nil
	}
}

// Listen is a Set for a literal address with a port; without an address it is
// all of both families. An IPv4-mapped IPv6 address becomes IPv4.
func Listen[C any](field func(*C) *netip.AddrPort) func(*C, string) error {
	return func(c *C, s string) error {
		if strings.HasPrefix(s, ":") {
			s = "[::]" + s
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil || ap.Port() == 0 {
			return errors.New("want an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80")
		}
		*field(c) = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		return nil
	}
}
