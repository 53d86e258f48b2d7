package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// appUID is the uid of the applications.
const appUID = 1000

var app = lab.User{UID: appUID, NoNewPrivs: true}

// setup says how a pod is attached.
type setup struct {
	mode        string            // the pod's mode annotation; none if empty
	annotations map[string]string // further ones, without the prefix
	entry       map[string]any    // settings in our conflist entry
	args        string            // CNI_ARGS
	chain       string            // the interface plugin: ptp if empty, or bridge
	before      []any             // plugins between that and ours
	after       []any             // plugins behind ours
	version     string            // cniVersion: 1.1.0 if empty
	families    string            // 46 if empty, or 4, or 6
	bare        bool              // no sidecar is started
	files       int               // the sidecar's limit of open files; ours if 0
	plugin      release           // whose plugin attaches it: the one under test if zero
	proxy       release           // whose sidecar it has: the same
	ownUsers    bool              // the pod has a user namespace of its own: hostUsers: false
	lacks       string            // features that the plugin takes the kernel to lack; see package lacks
}

// pod is a pod attached by cnitool, behind its sidecar.
type pod struct {
	*lab.Net
	setup
	t       *testing.T
	cnitool *lab.CNI
	result  string // of the ADD
	sidecar *lab.Proc
}

// newPod attaches a pod and starts its sidecar.
func newPod(t *testing.T, s setup) *pod {
	t.Helper()
	p := prepare(t, s)
	p.add()
	if !s.bare {
		p.start()
	}
	return p
}

// prepare sets up everything for a pod, without the ADD.
func prepare(t *testing.T, s setup) *pod {
	t.Helper()
	if s.version == "" {
		s.version = "1.1.0"
	}
	if s.families == "" {
		s.families = "46"
	}
	p := &pod{setup: s, t: t}
	list := lab.Conflist{Version: s.version, Link: s.chain, Chained: slices.Concat(s.before, []any{p.ourEntry()}, s.after)}
	for _, f := range p.fams() {
		list.Subnets = append(list.Subnets, f.podNet)
	}
	dirs := []string{p.plugin.dir(t), filepath.Dir(bin(t, "cnitool"))}
	if s.lacks != "" {
		dirs = append([]string{lacking(t, s.lacks)}, dirs...)
	}
	p.cnitool = lab.NewCNI(t, list, dirs...)
	p.Net = lab.NewNet(t)
	if s.ownUsers {
		p.Pod.Remove()
		p.Pod = lab.NewInUserNS(t, "pod")
	}
	return p
}

// ourEntry is our own object in the conflist.
func (p *pod) ourEntry() map[string]any {
	ours := map[string]any{
		"type":         contract.PluginType,
		"capabilities": map[string]bool{contract.AnnotationsCapability: true},
	}
	if g := lab.PacketGuard(p.t); g != contract.PacketGuardRequired {
		ours["packetGuard"] = g
	}
	for k, v := range p.entry {
		ours[k] = v
	}
	return ours
}

// podAnnotations is what a runtime passes on: our annotations and others.
func (p *pod) podAnnotations() map[string]string {
	all := map[string]string{"example.org/other": "left alone"}
	if p.mode != "" {
		all[contract.AnnotationPrefix+"mode"] = p.mode
	}
	for k, v := range p.annotations {
		all[contract.AnnotationPrefix+k] = v
	}
	return all
}

// attachment is the pod for cnitool.
func (p *pod) attachment() lab.Attachment {
	return lab.Attachment{
		CNI: p.cnitool, Node: p.Node, Pod: p.Pod,
		Capabilities: map[string]any{contract.AnnotationsCapability: p.podAnnotations()},
		Args:         p.args,
	}
}

// cni runs a verb of cnitool on the node.
func (p *pod) cni(verb string) (string, error) { return p.attachment().Try(verb) }

func (p *pod) mustCNI(verb string) string {
	p.t.Helper()
	return p.attachment().Run(verb)
}

// jsonObject is the result among what plugins of the chain log.
var jsonObject = regexp.MustCompile(`(?ms)^\{$.*^\}$`)

// add attaches the pod. At the end of the test it goes with its namespace, without a
// DEL: that starts four programs, a quarter of what a pod costs.
func (p *pod) add() {
	p.t.Helper()
	out := p.mustCNI("add")
	if p.result = jsonObject.FindString(out); p.result == "" {
		p.t.Fatalf("add: no result in %s", out)
	}
	p.t.Cleanup(func() {
		if p.t.Failed() {
			out, _ := p.Pod.Try("nft", "list", "ruleset")
			p.t.Logf("the pod's ruleset:\n%s", out)
		}
	})
}

// start starts the sidecar as its user: in nat mode with no capability at all,
// in tproxy mode with NET_RAW.
func (p *pod) start(args ...string) {
	p.t.Helper()
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	if p.mode == contract.ModeTProxy {
		user.Caps = []string{"net_raw"}
	}
	args = append([]string{p.proxy.bin(p.t, "tproxy-proxy"), "--mode", p.mode}, args...)
	if p.files > 0 {
		args = append([]string{"prlimit", fmt.Sprintf("--nofile=%[1]d:%[1]d", p.files)}, args...)
	}
	p.sidecar = p.Pod.StartAs(user, args...)
	p.waitReady()
}

// waitReady waits until the sidecar has seen that the plugin prepared the pod.
func (p *pod) waitReady() {
	p.t.Helper()
	p.sidecar.WaitListen(contract.ProxyPort, contract.AdminPort)
	lab.Eventually(p.t, "sidecar ready", func() error {
		status, text, err := p.Pod.Get(fmt.Sprintf("http://%s/readyz", addr(p.fams()[0].lo, contract.AdminPort)))
		if err == nil && status != http.StatusOK {
			err = errors.New(text)
		}
		return err
	})
}

// nodeLink is the name of the node's end of the pod's veth.
func (p *pod) nodeLink() string {
	p.t.Helper()
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
	}
	if err := json.Unmarshal([]byte(p.result), &result); err != nil {
		p.t.Fatalf("%v in %s", err, p.result)
	}
	for _, i := range result.Interfaces {
		if i.Sandbox == "" && strings.HasPrefix(i.Name, "veth") {
			return i.Name
		}
	}
	p.t.Fatalf("no veth in %s", p.result)
	return ""
}

// family is one IP family's view of the topology.
type family struct {
	name                       string
	client, other              string // both the client's
	node, gateway, pod, podNet string
	lo, any                    string
	foreign                    string // not assigned to any host
}

var v4 = family{
	"IPv4", lab.Client4, lab.OtherClient4,
	lab.Node4, lab.Gateway4, lab.Pod4, lab.PodNet4,
	"127.0.0.1", "0.0.0.0", "203.0.113.9",
}

var v6 = family{
	"IPv6", lab.Client6, lab.OtherClient6,
	lab.Node6, lab.Gateway6, lab.Pod6, lab.PodNet6,
	"::1", "::", "2001:db8::9",
}

// fams returns the pod's families.
func (p *pod) fams() []family {
	var all []family
	if strings.Contains(p.families, "4") {
		all = append(all, v4)
	}
	if strings.Contains(p.families, "6") {
		all = append(all, v6)
	}
	return all
}

// addr joins an address and a port.
func addr(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }

// inModes runs a story in a pod of its own for each mode, side by side.
func inModes(t *testing.T, s setup, story func(*testing.T, *pod)) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := s
			s.mode = mode
			story(t, newPod(t, s))
		})
	}
}

// inFamilies runs a story for each family of the pod, one after the other.
func (p *pod) inFamilies(t *testing.T, story func(*testing.T, family)) {
	for _, f := range p.fams() {
		t.Run(f.name, func(t *testing.T) { story(t, f) })
	}
}

// dial connects from the client's address to a port of the pod.
func (p *pod) dial(t *testing.T, f family, port int) net.Conn {
	t.Helper()
	conn, err := p.Client.Dial("tcp", f.client, addr(f.pod, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// wantSeen compares the peer that the application saw with the client: the address
// always, the port where the mode promises it.
func (p *pod) wantSeen(t *testing.T, saw, client string) {
	t.Helper()
	if !p.same(saw, client) {
		t.Errorf("%s mode: application saw %s, client is %s", p.mode, saw, client)
	}
}

func (p *pod) same(saw, client string) bool {
	s, errS := netip.ParseAddrPort(saw)
	c, errC := netip.ParseAddrPort(client)
	if errS != nil || errC != nil || s.Addr() != c.Addr() {
		return false
	}
	return p.mode == contract.ModeTProxy || s.Port() == c.Port()
}
