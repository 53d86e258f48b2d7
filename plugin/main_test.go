package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

var work string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tproxy-cni-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // an unprivileged user runs the plugin, too
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	work = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build builds the plugin as it ships, once, unless it has been built already.
var build = sync.OnceValues(func() (string, error) {
	if dir := lab.Programs(); dir != "" {
		return filepath.Join(dir, contract.PluginType), nil
	}
	path := filepath.Join(work, contract.PluginType)
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return path, err
})

// buildLacking builds the plugins of programs.Lacking beside it.
var buildLacking = sync.OnceValue(func() error {
	path, err := build()
	if err != nil || lab.Programs() != "" {
		return err
	}
	return programs.BuildLacking(context.Background(), "..", filepath.Dir(path))
})

// call is a run of the plugin as a runtime does it.
type call struct {
	command, netns, ifname string
	stdin                  any    // what becomes JSON, a string, or an io.Reader
	user                   string // setpriv's front, if not root
	args                   []string
	env                    []string // more of it
	lacks                  string   // features that the plugin takes the kernel to lack; see package lacks
}

// answer is what a runtime sees of it.
type answer struct {
	stdout, stderr string
	failed         bool
	code           uint   // of the CNI error
	msg, details   string // and its texts
}

// lesserGuard is the line by which ADD says that the packet guard is not the whole one.
var lesserGuard = regexp.MustCompile(`(?m)^.*, packet guard tc, .*\n`)

// run runs the plugin on the node.
func (c call) run(t *testing.T, node *lab.NS) (a answer) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if c.lacks != "" {
		if err := buildLacking(); err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(programs.LackingDir(filepath.Dir(path), c.lacks), contract.PluginType)
	}
	lesser := false // it gets a lesser packet guard than the default asks for, and says so
	front := append(strings.Fields(c.user), path)
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, front[0], append(front[1:], c.args...)...)
	switch stdin := c.stdin.(type) {
	case io.Reader:
		cmd.Stdin = stdin
	case string:
		cmd.Stdin = strings.NewReader(stdin)
	default:
		in, ok := c.stdin.(object)
		asks := in["packetGuard"]
		if lesser = ok && c.lacks == "" && (asks == nil || asks == contract.PacketGuardBestEffort) && !lab.Has(t, lab.EgressHook); lesser {
			in["packetGuard"] = contract.PacketGuardBestEffort
		}
		b, err := json.Marshal(c.stdin)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = bytes.NewReader(b)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CNI_CONTAINERID=c1", "CNI_PATH="+work, "CNI_NETNS="+c.netns)
	if c.command != "" {
		cmd.Env = append(cmd.Env, "CNI_COMMAND="+c.command)
	}
	if c.ifname == "" {
		c.ifname = "eth0"
	}
	cmd.Env = append(append(cmd.Env, "CNI_IFNAME="+c.ifname), c.env...)
	if err := node.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	a.failed = cmd.Wait() != nil
	if ctx.Err() != nil {
		t.Fatalf("%s does not end", c.command)
	}
	a.stdout, a.stderr = stdout.String(), stderr.String()
	if lesser {
		a.stderr = lesserGuard.ReplaceAllString(a.stderr, "")
	}
	if a.failed && a.stdout != "" {
		var e struct {
			Code         uint
			Msg, Details string
		}
		if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
			t.Fatalf("no CNI error: %v in %q", err, a.stdout)
		}
		a.code, a.msg, a.details = e.Code, e.Msg, e.Details
	}
	return a
}

// ok runs what must succeed and returns its stdout.
func (c call) ok(t *testing.T, node *lab.NS) string {
	t.Helper()
	a := c.run(t, node)
	if a.failed || a.stderr != "" {
		t.Fatalf("%s: %+v", c.command, a)
	}
	return a.stdout
}

// object is a JSON object.
type object = map[string]any

// conf is the plugin's stdin: version, a previous result with these
// addresses, and what with says.
func conf(version string, addrs []string, with object) object {
	var ips []object
	for _, a := range addrs {
		ip := object{"address": a, "interface": 1}
		if version < "1.0.0" {
			ip["version"] = "4"
			if strings.Contains(a, ":") {
				ip["version"] = "6"
			}
		}
		ips = append(ips, ip)
	}
	prev := object{
		"cniVersion": version, "ips": ips,
		"interfaces": []object{{"name": "pod0"}, {"name": "eth0", "sandbox": "/run/netns/pod"}},
		"dns":        object{"nameservers": []string{"10.1.0.1"}},
	}
	o := object{"cniVersion": version, "name": "lab", "type": contract.PluginType, "prevResult": prev}
	for k, v := range with {
		o[k] = v
	}
	return o
}

// annotated are annotations as a runtime hands them over.
func annotated(kv ...string) object {
	m := map[string]string{"example.org/other": "left alone"}
	for i := 0; i < len(kv); i += 2 {
		m[contract.AnnotationPrefix+kv[i]] = kv[i+1]
	}
	return object{
		"capabilities":  object{contract.AnnotationsCapability: true},
		"runtimeConfig": object{contract.AnnotationsCapability: m},
	}
}

// dual are the pod's addresses.
var dual = []string{lab.Pod4 + "/24", lab.Pod6 + "/64"}

// newPod is a pod as the interface plugin leaves it.
func newPod(t *testing.T) *lab.Net {
	t.Helper()
	lab.Need(t, "nft", "ip")
	n := lab.NewNet(t)
	n.Wire()
	// A link-local address that appears later is not a change by the plugin.
	n.Pod.Run("ip", "link", "set", "eth0", "addrgenmode", "none")
	n.Pod.Run("ip", "-6", "addr", "flush", "dev", "eth0", "scope", "link")
	// Nor is the address' own route, which comes once the link is up.
	lab.Eventually(t, "the route of "+lab.Pod6, func() error {
		if routes := n.Pod.Run("ip", "-6", "route", "show", "table", "local"); !strings.Contains(routes, lab.Pod6) {
			return errors.New(routes)
		}
		return nil
	})
	return n
}

// state is all that the plugin may change.
func state(ns *lab.NS) map[string]string {
	s := map[string]string{"nft": ns.Run("nft", "list", "ruleset"), "link": ns.Run("ip", "-o", "link", "show", "lo")}
	for _, f := range []string{"-4", "-6"} {
		s["rule "+f] = ns.Run("ip", f, "rule")
		s["route "+f] = ns.Run("ip", f, "route", "show", "table", "all", "type", "local")
	}
	for _, key := range []string{"ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect", "ipv6/ip_nonlocal_bind"} {
		s[key] = ns.Run("cat", "/proc/sys/net/"+key)
	}
	return s
}

// TestByHand: a person who runs the plugin is told what it is; a runtime's
// mistakes are CNI errors.
func TestByHand(t *testing.T) {
	node := lab.New(t, "node")
	for _, tt := range []struct {
		name string
		call call
		want answer // its texts are parts
	}{
		{"nothing", call{}, answer{stderr: "A CNI plugin"}},
		{"version", call{args: []string{"--version"}}, answer{stdout: "tproxy-cni "}},
		{"help", call{args: []string{"--help"}}, answer{stderr: "A CNI plugin"}},
		{"argument", call{args: []string{"install"}}, answer{stderr: "A CNI plugin", failed: true}},
		{"flag", call{args: []string{"--mode"}}, answer{stderr: "A CNI plugin", failed: true}},
		{"VERSION", call{command: "VERSION"}, answer{stdout: `"supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`}},
		{"no verb of CNI", call{command: "UPDATE", stdin: object{"name": "n"}}, answer{failed: true, code: 4, msg: "UPDATE"}},
		{"no JSON", call{command: "ADD", netns: "/x", stdin: "{"}, answer{failed: true, code: 6, msg: "JSON"}},
		{"no network name", call{command: "ADD", netns: "/x", stdin: object{}}, answer{failed: true, code: 7, msg: "name"}},
		{"old version", call{command: "ADD", netns: "/x", stdin: object{"name": "n", "cniVersion": "0.2.0"}}, answer{failed: true, code: 1, msg: "incompatible"}},
		{"not chained", call{command: "ADD", netns: "/x", stdin: object{"name": "n", "cniVersion": "1.0.0"}}, answer{failed: true, code: 7, msg: "chained"}},
		{"prevResult null", call{command: "CHECK", netns: "/x", stdin: object{"name": "n", "cniVersion": "1.0.0", "prevResult": nil}}, answer{failed: true, code: 7, msg: "chained"}},
		{"prevResult of no version", call{command: "ADD", netns: "/x", stdin: object{"name": "n", "cniVersion": "1.0.0", "prevResult": object{"cniVersion": "9.9.9"}}}, answer{failed: true, code: 6, msg: "9.9.9"}},
		{"annotations that are none", call{command: "ADD", netns: "/x", stdin: conf("1.0.0", dual, object{"runtimeConfig": object{contract.AnnotationsCapability: []int{1}}})}, answer{failed: true, code: 6, msg: "annotations"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.call.run(t, node)
			if got.failed != tt.want.failed || got.code != tt.want.code || !strings.Contains(got.msg, tt.want.msg) ||
				!strings.Contains(got.stderr, tt.want.stderr) || !strings.Contains(got.stdout, tt.want.stdout) {
				t.Errorf("got %+v", got)
			}
			if !got.failed && tt.want.stdout == "" && got.stdout != "" {
				t.Errorf("stdout is the protocol's: %q", got.stdout)
			}
		})
	}
}

// TestNoExec: the plugin runs no other program; it cannot even. What else it
// may not link is package imports' business.
func TestNoExec(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/containernetworking/cni/pkg/skel") || slices.Contains(deps, "os/exec") {
		t.Errorf("the plugin links %v", deps)
	}
}

// equalJSON compares what two texts say.
func equalJSON(t *testing.T, want any, got string) {
	t.Helper()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var w, g any
	if err := json.Unmarshal(b, &w); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v in %q", err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
