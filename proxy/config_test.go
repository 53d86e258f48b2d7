package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
)

func parse(args string, env map[string]string) (config, error) {
	return parseConfig(strings.Fields(args), func(k string) string { return env[k] }, io.Discard)
}

func TestConfig(t *testing.T) {
	preset := config{
		addr: netip.MustParseAddrPort("0.0.0.0:5000"), mode: contract.ModeNAT,
		admin: netip.MustParseAddrPort("[::]:5001"), drain: 25 * time.Second,
		half: time.Hour,
	}
	with := func(set func(*config)) config {
		c := preset
		set(&c)
		return c
	}
	env := map[string]string{
		"TPROXY_ADDR": ":6000", "TPROXY_MODE": "tproxy", "TPROXY_ADMIN": "127.0.0.1:6001",
		"TPROXY_DRAIN": "1m", "TPROXY_LOG_LEVEL": "debug", "TPROXY_LOG_FORMAT": "json", "TPROXY_LOOPS": "3",
		"TPROXY_HALF_CLOSED_TIMEOUT": "10m", "TPROXY_LOG_OPEN": "1m",
	}
	fromEnv := config{
		addr: netip.MustParseAddrPort("[::]:6000"), mode: contract.ModeTProxy,
		admin: netip.MustParseAddrPort("127.0.0.1:6001"), drain: time.Minute, loops: 3,
		half: 10 * time.Minute, logOpen: time.Minute, log: flags.Log{Level: slog.LevelDebug, JSON: true},
	}
	for _, tt := range []struct {
		name, args string
		env        map[string]string
		want       config
	}{
		{"nothing is said", "", nil, preset},
		{"version", "--version", nil, with(func(c *config) { c.version = true })},
		{"the environment", "", env, fromEnv},
		{"flags win", "--mode nat --addr 0.0.0.0:5000 --admin=:5001 --drain 25s --loops 0 --half-closed-timeout 1h --log-open 0 --log-level info --log-format text", env, preset},
		{"a flag wins, the rest stays", "--mode=nat", env, func() config { c := fromEnv; c.mode = contract.ModeNAT; return c }()},
		{"an empty variable says nothing", "", map[string]string{"TPROXY_MODE": ""}, preset},
		{"a bad variable behind a flag does no harm", "--mode nat", map[string]string{"TPROXY_MODE": "x"}, preset},
		{"one address", "--addr [fd00::1]:7", nil, with(func(c *config) { c.addr = netip.MustParseAddrPort("[fd00::1]:7") })},
		{"a mapped address", "--addr [::ffff:192.0.2.1]:7", nil, with(func(c *config) { c.addr = netip.MustParseAddrPort("192.0.2.1:7") })},
		{"PROXY headers", "--proxy-protocol-from=10.0.0.0/8,fd00::/8 --proxy-protocol-ports=80,8000-8099", nil, with(func(c *config) {
			c.trusted.from = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
			c.trusted.ports = []ranges.Ports{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
		})},
		{"another proxy", "--accept-proxy unix:/run/a.sock --accept-proxy-uid 101 --accept-proxy-to 8080", nil, with(func(c *config) {
			c.front = frontConfig{"/run/a.sock", 101, 8080}
		})},
		{"no drain", "--drain 0s", nil, with(func(c *config) { c.drain = 0 })},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(tt.args, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(config{}, trusted{}, frontConfig{}), same, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestConfigFaults(t *testing.T) {
	const wantAddr = "want an IP address with a port of 1-65535, such as 0.0.0.0:80, [fd00::1]:80 or :80"
	const wantPath = "want unix: and an absolute path of at most 107 bytes, such as unix:/run/tproxy/front.sock"
	for _, tt := range []struct {
		args string
		env  map[string]string
		want []string
	}{
		{"--addr 0.0.0.0", nil, []string{`--addr "0.0.0.0": ` + wantAddr}},
		{"--addr localhost:1", nil, []string{`--addr "localhost:1": ` + wantAddr}},
		{"--addr :0", nil, []string{`--addr ":0": ` + wantAddr}},
		{"--addr :65536", nil, []string{`--addr ":65536": ` + wantAddr}},
		{"--admin x", nil, []string{`--admin "x": ` + wantAddr}},
		{"--mode proxy", nil, []string{`--mode "proxy": want nat or tproxy`}},
		{"--drain -1s", nil, []string{`--drain "-1s": want a time such as 25s, 500ms or 0s`}},
		{"--drain 25", nil, []string{`--drain "25": want a time such as 25s, 500ms or 0s`}},
		{"--loops -1", nil, []string{`--loops "-1": want a number from 0 to 64`}},
		{"--loops many", nil, []string{`--loops "many": want a number from 0 to 64`}},
		{"--loops 65", nil, []string{`--loops "65": want a number from 0 to 64`}},
		{"--log-level loud", nil, []string{`--log-level "loud": want debug, info, warn or error`}},
		{"--log-format xml", nil, []string{`--log-format "xml": want text or json`}},
		{"--addr :5001", nil, []string{`--addr and --admin are both on port 5001`}},
		{"--proxy-protocol-from 10.0.0.1/8,x", nil, []string{
			`--proxy-protocol-from "10.0.0.1/8,x": 10.0.0.1/8 has host bits set, write 10.0.0.0/8 or 10.0.0.1/32, "x" is not a CIDR; want ` + ranges.WantCIDRs,
		}},
		{"--proxy-protocol-ports 0", nil, []string{`--proxy-protocol-ports "0": "0" is not a port; want ` + ranges.WantPorts}},
		{"--proxy-protocol-ports 80", nil, []string{`--proxy-protocol-ports does nothing without --proxy-protocol-from`}},
		{"--accept-proxy /run/a.sock", nil, []string{`--accept-proxy "/run/a.sock": ` + wantPath}},
		{"--accept-proxy unix:@a", nil, []string{`--accept-proxy "unix:@a": ` + wantPath}},
		{"--accept-proxy unix:/run/../a", nil, []string{`--accept-proxy "unix:/run/../a": ` + wantPath}},
		{"--accept-proxy-to 80", nil, []string{`--accept-proxy-uid and --accept-proxy-to do nothing without --accept-proxy`}},
		{"--accept-proxy unix:/a --accept-proxy-uid 0 --accept-proxy-to x", nil, []string{
			`--accept-proxy-uid "0": want a number from 1 to 4294967294`, `--accept-proxy-to "x": want a port of 1-65535`,
		}},
		{"serve", nil, []string{`unexpected argument "serve"`}},
		{"--marks", nil, []string{"flag provided but not defined: -marks"}},
		{"", map[string]string{"TPROXY_MODE": "proxy"}, []string{`TPROXY_MODE "proxy": want nat or tproxy`}},
		{"--mode x --drain y", map[string]string{"TPROXY_ADDR": "z"}, []string{
			`TPROXY_ADDR "z": ` + wantAddr, `--mode "x": want nat or tproxy`, `--drain "y": want a time such as 25s, 500ms or 0s`,
		}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := parse(tt.args, tt.env)
			if got, want := fmt.Sprint(err), strings.Join(tt.want, "\n"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	var out bytes.Buffer
	_, err := parseConfig([]string{"--help"}, func(string) string { return "" }, &out)
	if !errors.Is(err, flag.ErrHelp) {
		t.Errorf("error %v", err)
	}
	for _, s := range []string{
		"-addr", "TPROXY_ADDR", "-mode", "TPROXY_MODE", "-admin", "TPROXY_ADMIN", "-drain", "TPROXY_DRAIN", "-loops", "TPROXY_LOOPS",
		"-log-level", "TPROXY_LOG_LEVEL", "-log-format", "TPROXY_LOG_FORMAT", "-version",
	} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("no %s in:\n%s", s, out.String())
		}
	}
}

// TestStatus: what a script sees.
func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		args           string
		status         int
		stdout, stderr string
	}{
		{"--version", 0, "tproxy-proxy ", ""},
		{"--help", 0, "TPROXY_ADDR", ""},
		{"--mode x", 2, "", `tproxy-proxy: --mode "x"`},
	} {
		var stdout, stderr bytes.Buffer
		status := run(strings.Fields(tt.args), func(string) string { return "" }, &stdout, &stderr)
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("%s: status %d\n%s\n%s", tt.args, status, stdout.String(), stderr.String())
		}
	}
}

func TestLoopsFor(t *testing.T) {
	for cpus, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 64: 4} {
		if got := loopsFor(cpus); got != want {
			t.Errorf("%d CPUs: %d loops, want %d", cpus, got, want)
		}
	}
}
