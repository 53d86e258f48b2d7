package flags

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

// value returns a func for [Set.Add] that parses a text. Where parse fails, or valid
// does not accept the result, the error is want.
func value[T any](to *T, want string, parse func(string) (T, error), valid func(T) bool) func(string) error {
	return func(text string) error {
		v, err := parse(text)
		if err != nil || !valid(v) {
			return errors.New("want " + want)
		}
		*to = v
		return nil
	}
}

// Boolean takes true and false.
func Boolean(to *bool) func(string) error {
	return value(to, "true or false", strconv.ParseBool, func(bool) bool { return true })
}

// Text takes any text except the empty one.
func Text(to *string) func(string) error {
	return value(to, "a value", text, func(s string) bool { return s != "" })
}

// OneOf takes one of a few words.
func OneOf(to *string, words ...string) func(string) error {
	return value(to, strings.Join(words, " or "), text, func(s string) bool { return slices.Contains(words, s) })
}

func text(s string) (string, error) { return s, nil }

// Time takes a duration that is not negative.
func Time(to *time.Duration) func(string) error {
	return value(to, "a time such as 25s, 500ms or 0s", time.ParseDuration, func(d time.Duration) bool { return d >= 0 })
}

// Number takes an integer from low to high.
func Number(to *int, low, high int) func(string) error {
	want := "a number from " + strconv.Itoa(low) + " to " + strconv.Itoa(high)
	return value(to, want, strconv.Atoi, func(n int) bool { return low <= n && n <= high })
}

// Listen takes an IP address with a port; without an address it is all addresses of
// both families. An IPv4-mapped IPv6 address becomes IPv4.
func Listen(to *netip.AddrPort) func(string) error {
	const want = "an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80"
	return value(to, want, func(s string) (netip.AddrPort, error) {
		if strings.HasPrefix(s, ":") {
			s = "[::]" + s
		}
		a, err := netip.ParseAddrPort(s)
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
	}, func(a netip.AddrPort) bool { return a.Port() != 0 })
}

// Ports takes a list of ports and ranges of ports with commas.
func Ports(to *[]ranges.Ports) func(string) error {
	return list(to, ranges.WantPorts, ranges.ParsePorts)
}

// CIDRs takes a list of CIDRs with commas.
func CIDRs(to *[]netip.Prefix) func(string) error {
	return list(to, ranges.WantCIDRs, ranges.ParseCIDR)
}

func list[T any](to *[]T, want string, parse func(string) (T, string)) func(string) error {
	return func(text string) error {
		values, problems := ranges.Parse(strings.Split(text, ","), parse)
		if len(problems) > 0 {
			return errors.New(printable.List(problems, ", ") + "; want " + want)
		}
		*to = values
		return nil
	}
}

// Log is how a program logs. The zero value is text, from level info up.
type Log struct {
	Level slog.Level
	JSON  bool
}

// Log adds the flags --log-level and --log-format.
func (s *Set) Log(to *Log) {
	s.Add("log-level", "info", "`debug|info|warn|error`", Level(&to.Level))
	var format string
	check := OneOf(&format, "text", "json")
	s.Add("log-format", "text", "`text|json`", func(text string) error {
		err := check(text)
		to.JSON = format == "json"
		return err
	})
}

// Level takes a log level.
func Level(to *slog.Level) func(string) error {
	words := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	return value(to, "debug, info, warn or error", func(s string) (slog.Level, error) {
		if l, ok := words[strings.ToLower(s)]; ok {
			return l, nil
		}
		return 0, errors.New("no level")
	}, func(slog.Level) bool { return true })
}

// New returns the program's logger.
func (l Log) New(w io.Writer) *slog.Logger { return l.at(l.Level, w) }

// NewVariable returns the logger of a program that changes its level while it runs.
func (l Log) NewVariable(w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(l.Level)
	return l.at(level, w), level
}

func (l Log) at(level slog.Leveler, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if l.JSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
