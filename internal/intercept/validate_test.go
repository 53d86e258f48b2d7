package intercept

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestInvalidConfig: what would make other rules than are meant is refused
// with every fault named, by Apply and Check, before anything is looked at:
// there is no such namespace.
func TestInvalidConfig(t *testing.T) {
	const nowhere = "/run/netns/never-was"
	for name, tt := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"no mode":            {func(c *Config) { c.Mode = "" }, []string{`mode "": want nat or tproxy`}},
		"none":               {func(c *Config) { c.Mode = contract.ModeNone }, []string{`mode "none": want nat or tproxy`}},
		"capitals":           {func(c *Config) { c.Mode = "TPROXY" }, []string{`mode "TPROXY": want nat or tproxy`}},
		"root":               {func(c *Config) { c.ProxyUID = 0 }, []string{"proxy uid 0: "}},
		"nobody":             {func(c *Config) { c.ProxyUID = math.MaxUint32 }, []string{"proxy uid 4294967295: "}},
		"no interface":       {func(c *Config) { c.Interface = "" }, []string{`interface "": `}},
		"lo":                 {func(c *Config) { c.Interface = "lo" }, []string{"interface lo: "}},
		"long interface":     {func(c *Config) { c.Interface = "0123456789abcdef" }, []string{`interface "0123456789abcdef": `}},
		"slash":              {func(c *Config) { c.Interface = "a/b" }, []string{`interface "a/b": `}},
		"space":              {func(c *Config) { c.Interface = "a b" }, []string{`interface "a b": `}},
		"escape":             {func(c *Config) { c.Interface = "a\x1b[0m" }, []string{`interface "a\x1b[0m": `}},
		"no proxy port":      {func(c *Config) { c.ProxyPort = 0 }, []string{"proxy port 0: "}},
		"no admin port":      {func(c *Config) { c.AdminPort = 0 }, []string{"admin port 0: "}},
		"one port":           {func(c *Config) { c.AdminPort = c.ProxyPort }, []string{"proxy port and admin port are both 5000"}},
		"reversed":           {func(c *Config) { c.IncludePorts = []PortRange{{81, 80}} }, []string{"included ports 81-80: "}},
		"reversed, excluded": {func(c *Config) { c.ExcludePorts = []PortRange{{80, 80}, {2, 1}} }, []string{"excluded ports 2-1: "}},
		"no CIDR":            {func(c *Config) { c.ExcludeSources = []netip.Prefix{{}} }, []string{"excluded source invalid Prefix: "}},
		"mapped":             {func(c *Config) { c.ExcludeSources = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")} }, []string{"excluded source ::ffff:10.0.0.0/104: "}},
		"zero":               {func(c *Config) { *c = Config{} }, []string{`mode ""`, `interface ""`, "proxy port 0", "admin port 0", "proxy uid 0", `packet guard ""`}},
		"no packet guard":    {func(c *Config) { c.PacketGuard = "" }, []string{`packet guard "": want required or best-effort`}},
		"packet guard":       {func(c *Config) { c.PacketGuard = "none" }, []string{`packet guard "none": want required or best-effort`}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Default(contract.ModeNAT)
			tt.change(&c)
			for verb, err := range map[string]error{"Apply": Apply(nowhere, c), "Check": Check(nowhere, c, nil)} {
				if err == nil {
					t.Fatalf("%s takes %+v", verb, c)
				}
				if faults := strings.Split(err.Error(), "\n"); len(faults) != len(tt.want) {
					t.Errorf("%s: %d faults, want %d: %v", verb, len(faults), len(tt.want), err)
				}
				for _, want := range tt.want {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v, want %q", verb, err, want)
					}
				}
			}
		})
	}
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		var none NoNetNS
		if err := Apply(nowhere, Default(mode)); !errors.As(err, &none) || none.Path != nowhere {
			t.Errorf("the default of mode %s: %v", mode, err)
		}
	}
}

// TestRefusedChangesNothing: a namespace that is there is left as it is.
func TestRefusedChangesNothing(t *testing.T) {
	lab.Need(t, "nft", "ip")
	pod := lab.New(t, "pod")
	pod.Run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
	look := func() string {
		return pod.Run("nft", "list", "ruleset") + pod.Run("ip", "rule") + pod.Run("ip", "-6", "rule") + pod.Run("ip", "route", "show", "table", "all")
	}
	before := look()
	for _, mode := range []contract.Mode{"", "none", "TPROXY"} {
		if err := Apply(pod.Path(), usual(t, mode)); err == nil {
			t.Errorf("mode %q is taken", mode)
		}
	}
	root := Default(contract.ModeTProxy)
	root.ProxyUID = 0
	if err := Apply(pod.Path(), root); err == nil {
		t.Error("uid 0 is taken")
	}
	if after := look(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestOpenLeavesNothingOpen: neither of a namespace nor of what is none.
func TestOpenLeavesNothingOpen(t *testing.T) {
	lab.Need(t)
	pod := lab.New(t, "pod")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for i := range 20 {
		if own, err := IsOwn(pod.Path()); own || err != nil {
			t.Errorf("%v, %v", own, err)
		}
		for _, path := range []string{pipe, "/proc/self/ns/mnt", "/nowhere", fmt.Sprint(i)} {
			var none NoNetNS
			if _, err := IsOwn(path); !errors.As(err, &none) {
				t.Errorf("%s: %v", path, err)
			}
			if err := Remove(path, "eth0"); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
	}
	if after := count(); after > before+2 { // the runtime may have opened some
		t.Errorf("%d files are open, %d were", after, before)
	}
}
