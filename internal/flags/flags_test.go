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
	most    int
	log     Log
	version bool
}

func parse(args string, env map[string]string) (config, string, error) {
	var c config
	var out bytes.Buffer
	s := New("T_", "It does things.")
	s.Add("addr", ":80", "`address`", Listen(&c.addr))
	s.Add("mode", "a", "`a|b`", OneOf(&c.mode, "a", "b"))
	s.Add("f", "-", "`file`", Text(&c.file))
	s.Add("wait", "1s", "`time`", Time(&c.wait))
	s.Bool(&c.once, "once", false, "once")
	s.Add("skipped", "", "`text`", func(s string) error { c.skipped = "set " + s; return nil })
	s.Add("at-most", "5", "`number`", Number(&c.most, 1, 9))
	s.Log(&c.log)
	s.Version(&c.version)
	err := s.Parse(strings.Fields(args), func(k string) string { return env[k] }, &out)
	return c, out.String(), err
}

func TestPrecedence(t *testing.T) {
	env := map[string]string{"T_ADDR": "[fd00::1]:81", "T_WAIT": "2s", "T_LOG_FORMAT": "json", "T_LOG_LEVEL": "warn", "T_AT_MOST": "7", "T_VERSION": "true", "T_F": "no", "": "no"}
	got, _, err := parse("--wait 3s --once --f x", env)
	want := config{netip.MustParseAddrPort("[fd00::1]:81"), "a", "x", 3 * time.Second, true, "", 7, Log{slog.LevelWarn, true}, false}
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

// TestServiceLinks: the variables of a Service whose name has our prefix set nothing.
func TestServiceLinks(t *testing.T) {
	var got string
	parse := func(name, value string) error {
		s := New("T_", "")
		s.Add(name, "80", "", func(s string) error { got = s; return nil })
		return s.Parse(nil, func(string) string { return value }, io.Discard)
	}
	for value, want := range map[string]string{
		"tcp://10.0.0.1:81": "80", "udp://[fd00::1]:81": "80", "sctp://10.0.0.1:81": "80", "81": "81", "http://10.0.0.1:81": "http://10.0.0.1:81",
	} {
		if err := parse("port", value); err != nil || got != want {
			t.Errorf("%s: got %q, %v", value, got, err)
		}
	}
	if _ = parse("addr", "tcp://10.0.0.1:81"); got != "tcp://10.0.0.1:81" {
		t.Errorf("not the name of a service link: got %q", got)
	}
}

func TestFaults(t *testing.T) {
	_, _, err := parse("--addr here --mode c --f= --once=maybe rest", map[string]string{"T_WAIT": "-1s", "T_LOG_LEVEL": "loud", "T_LOG_FORMAT": "xml"})
	want := `unexpected argument "rest"
--addr "here": want an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80
--mode "c": want a or b
--f "": want a value
T_WAIT "-1s": want a time such as 25s, 500ms or 0s
--at-most "10": want a number from 1 to 9
T_LOG_LEVEL "loud": want debug, info, warn or error
T_LOG_FORMAT "xml": want text or json`
	// Package flag itself refuses a boolean's value, before all others.
	if err == nil || !strings.Contains(err.Error(), `invalid boolean value "maybe"`) {
		t.Errorf("got %v", err)
	}
	_, _, err = parse("--addr here --mode c --f= --at-most 10 rest", map[string]string{"T_WAIT": "-1s", "T_LOG_LEVEL": "loud", "T_LOG_FORMAT": "xml"})
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, _, err := parse("", map[string]string{"T_ONCE": "maybe"}); err == nil || err.Error() != `T_ONCE "maybe": want true or false` {
		t.Errorf("got %v", err)
	}
}

func TestHelp(t *testing.T) {
	_, text, err := parse("--help", nil)
	if !errors.Is(err, flag.ErrHelp) || !strings.HasPrefix(text, "It does things.\n") || !strings.Contains(text, "(T_ADDR) (default \":80\")") || strings.Contains(text, "T_VERSION") || strings.Contains(text, "T_F)") {
		t.Errorf("%v: %s", err, text)
	}
}
