package flags

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

type config struct {
	addr    netip.AddrPort
	mode    string
	file    string
	wait    time.Duration
	once    bool
	skipped string
	log     Log
}

var list = append([]Flag[config]{
	{Name: "addr", Env: "T_ADDR", Preset: ":80", Usage: "`address`", Set: Listen(func(c *config) *netip.AddrPort { return &c.addr })},
	{Name: "mode", Env: "T_MODE", Preset: "a", Usage: "`a|b`", Set: OneOf(func(c *config) *string { return &c.mode }, "a", "b")},
	{Name: "f", Preset: "-", Usage: "`file`", Set: Text(func(c *config) *string { return &c.file })},
	{Name: "wait", Env: "T_WAIT", Preset: "1s", Usage: "`time`", Set: Time(func(c *config) *time.Duration { return &c.wait })},
	{Name: "once", Env: "T_ONCE", Preset: "false", Usage: "once", Bool: true, Set: Boolean(func(c *config) *bool { return &c.once })},
	{Name: "skipped", Env: "T_SKIPPED", Usage: "`text`", Set: func(c *config, s string) error { c.skipped = "set " + s; return nil }},
}, LogFlags("T_", func(c *config) *Log { return &c.log })...)

func parse(args string, env map[string]string) (config, string, error) {
	var c config
	var out bytes.Buffer
	err := Parse(&c, list, "It does things.", strings.Fields(args), func(k string) string { return env[k] }, &out)
	return c, out.String(), err
}

func TestPrecedence(t *testing.T) {
	env := map[string]string{"T_ADDR": "[fd00::1]:81", "T_WAIT": "2s", "T_LOG_FORMAT": "json", "T_LOG_LEVEL": "warn", "": "nobody's"}
	got, _, err := parse("--wait 3s --once --f x", env)
	want := config{netip.MustParseAddrPort("[fd00::1]:81"), "a", "x", 3 * time.Second, true, "", Log{slog.LevelWarn, true}}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	// An empty value on the command line is a value.
	if got, _, err := parse("--skipped=", nil); err != nil || got.skipped != "set " || got.file != "-" {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, _, _ := parse("--addr [::ffff:192.0.2.1]:80", nil); got.addr.String() != "192.0.2.1:80" {
		t.Errorf("got %v", got.addr)
	}
}

// TestServiceLinks: a Service that happens to have our prefix sets nothing.
func TestServiceLinks(t *testing.T) {
	var got string
	list := []Flag[string]{{Name: "port", Env: "T_PORT", Preset: "80", Set: func(c *string, s string) error { *c = s; return nil }}}
	for value, want := range map[string]string{
		"tcp://10.0.0.1:81": "80", "udp://[fd00::1]:81": "80", "sctp://10.0.0.1:81": "80", "81": "81", "http://10.0.0.1:81": "http://10.0.0.1:81",
	} {
		if err := Parse(&got, list, "", nil, func(string) string { return value }, io.Discard); err != nil || got != want {
			t.Errorf("%s: got %q, %v", value, got, err)
		}
	}
	list[0].Env = "T_ADDR"
	if _ = Parse(&got, list, "", nil, func(string) string { return "tcp://10.0.0.1:81" }, io.Discard); got != "tcp://10.0.0.1:81" {
		t.Errorf("no name of a service link: got %q", got)
	}
}

func TestFaults(t *testing.T) {
	_, _, err := parse("--addr here --mode c --f= --once=maybe rest", map[string]string{"T_WAIT": "-1s", "T_LOG_LEVEL": "loud", "T_LOG_FORMAT": "xml"})
	want := `unexpected argument "rest"
--addr "here": want an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80
--mode "c": want a or b
--f "": want a value
T_WAIT "-1s": want a time such as 25s, 500ms or 0s
T_LOG_LEVEL "loud": want debug, info, warn or error
T_LOG_FORMAT "xml": want text or json`
	// Package flag itself refuses a boolean's value, before all others.
	if err == nil || !strings.Contains(err.Error(), `invalid boolean value "maybe"`) {
		t.Errorf("got %v", err)
	}
	_, _, err = parse("--addr here --mode c --f= rest", map[string]string{"T_WAIT": "-1s", "T_LOG_LEVEL": "loud", "T_LOG_FORMAT": "xml"})
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, _, err := parse("", map[string]string{"T_ONCE": "maybe"}); err == nil || err.Error() != `T_ONCE "maybe": want true or false` {
		t.Errorf("got %v", err)
	}
}

func TestHelp(t *testing.T) {
	_, text, err := parse("--help", nil)
	if !errors.Is(err, flag.ErrHelp) || !strings.HasPrefix(text, "It does things.\n") || !strings.Contains(text, "(T_ADDR)") {
		t.Errorf("%v: %s", err, text)
	}
}
