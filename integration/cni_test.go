package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestCNI runs ADD, CHECK and DEL in every chain, mode and set of families.
func TestCNI(t *testing.T) {
	versions := []string{"0.3.0", "0.4.0", "1.0.0", "1.1.0", "0.3.1"}
	n := 0
	for _, chain := range []string{"ptp", "bridge"} {
		for _, families := range []string{"46", "4", "6"} {
			for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
				s := setup{chain: chain, families: families, mode: mode, version: versions[n%len(versions)]}
				n++
				t.Run(fmt.Sprintf("%s %s %s %s", s.chain, s.families, s.mode, s.version), func(t *testing.T) {
					t.Parallel()
					newPod(t, s).life(t)
				})
			}
		}
	}
}

func (p *pod) life(t *testing.T) {
	p.nginx(t)
	p.inFamilies(t, p.wantExact)
	p.mustCNI("status")
	p.wantCheckFails(t)
	p.mustCNI("del")
	p.mustCNI("del")
	if out := p.Pod.Run("nft", "list", "ruleset"); out != "" {
		t.Errorf("after del: %s", out)
	}
}

// wantCheckFails: CHECK finds nothing, then a missing table. 0.3.0 and 0.3.1 have no CHECK:
// neither a runtime nor we answer it.
func (p *pod) wantCheckFails(t *testing.T) {
	t.Helper()
	if strings.HasPrefix(p.version, "0.3.") {
		if out, err := p.cni("check"); err == nil || !strings.Contains(out, "does not support the CHECK command") {
			t.Errorf("check: %v, %q", err, out)
		}
		if out, err := p.try(t, p.plugin, "CHECK"); err == nil || !strings.Contains(out, "does not allow CHECK") {
			t.Errorf("CHECK: %v, %q", err, out)
		}
		return
	}
	p.mustCNI("check")
	p.Pod.Run("nft", "delete", "table", "inet", contract.Table)
	if out, err := p.cni("check"); err == nil || !strings.Contains(out, "table inet "+contract.Table+" is missing") {
		t.Errorf("check without the table: %v, %q", err, out)
	}
}

// TestGC: cnitool's gc passes no valid attachments, so it detaches the pod.
func TestGC(t *testing.T) {
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT})
	p.mustCNI("gc")
	if out := p.Pod.Run("nft", "list", "ruleset"); out != "" {
		t.Errorf("after gc: %s", out)
	}
	p.mustCNI("gc")
}

// TestDelWithoutNamespace: the pod's namespace may be gone before its DEL.
func TestDelWithoutNamespace(t *testing.T) {
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
	p.Pod.Remove()
	p.mustCNI("del")
	p.mustCNI("del")
}

// TestTakenOut: our ADD and DEL leave a pod as the plugins before us made it, and pass
// on prevResult.
func TestTakenOut(t *testing.T) {
	for version, mode := range map[string]string{"0.3.0": contract.ModeNAT, "0.4.0": contract.ModeTProxy, "1.0.0": contract.ModeNAT, "1.1.0": contract.ModeTProxy} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := prepare(t, setup{version: version, bare: true})
			p.Pod.Up() // as the runtime's loopback plugin does
			p.add()    // without a mode: the chain's own work
			before := p.snapshot(t)

			p.mode = mode
			for range 2 {
				if diff := cmp.Diff(object(t, p.result), object(t, p.ours(t, "ADD"))); diff != "" {
					t.Errorf("result: %s", diff)
				}
			}
			if version != "0.3.0" { // which has no CHECK
				p.ours(t, "CHECK")
			}
			if cmp.Equal(before, p.snapshot(t)) {
				t.Error("ADD changed nothing")
			}
			p.start()
			p.nginx(t)
			p.inFamilies(t, p.wantExact)
			p.sidecar.Kill()

			for range 2 {
				p.ours(t, "DEL")
				if diff := cmp.Diff(before, p.snapshot(t)); diff != "" {
					t.Errorf("after DEL: %s", diff)
				}
			}
			p.mode = contract.ModeNAT // the client talks to the application directly
			p.inFamilies(t, p.wantExact)
		})
	}
}

// TestLeftAlone: a pod without a mode, and one that opts out, is untouched.
func TestLeftAlone(t *testing.T) {
	for name, s := range map[string]setup{
		"no mode":                  {},
		"none":                     {mode: contract.ModeNone},
		"none under a node's mode": {mode: contract.ModeNone, entry: map[string]any{"mode": contract.ModeNAT}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.bare = true
			p := prepare(t, s)
			p.add()
			before := p.snapshot(t)
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				p.ours(t, verb)
				if diff := cmp.Diff(before, p.snapshot(t)); diff != "" {
					t.Errorf("%s: %s", verb, diff)
				}
			}
			if strings.Contains(before["nft"], contract.Table) {
				t.Error(before["nft"])
			}
		})
	}
}

// TestNodeDefault: the conflist's settings apply to pods without annotations.
func TestNodeDefault(t *testing.T) {
	t.Parallel()
	p := prepare(t, setup{entry: map[string]any{"mode": contract.ModeTProxy, "excludeInboundPorts": "22"}})
	p.add()
	p.mode = contract.ModeTProxy
	p.start()
	p.nginx(t)
	p.inFamilies(t, p.wantExact)
	if !strings.Contains(p.Pod.Run("nft", "list", "ruleset"), "elements = { 22 }") {
		t.Error("port 22 is not excluded")
	}
}

// TestExemptNamespaces: the node's default takes nothing from a pod of an exempt
// namespace, which has no sidecar, as the cluster's DNS server; elsewhere it applies.
func TestExemptNamespaces(t *testing.T) {
	for name, tt := range map[string]struct {
		namespace, mode string
		exempt          []string // in the entry; nil for the default
		want            string   // mode
	}{
		"reserved":           {"kube-system", "", nil, ""},
		"reserved elsewhere": {"openshift-dns", "", nil, ""},
		"named":              {"calico-system", "", []string{"calico-*", "gmp-system"}, ""},
		"its annotation":     {"kube-system", contract.ModeNAT, nil, contract.ModeNAT},
		"others":             {"demo", "", nil, contract.ModeTProxy},
		"nothing is exempt":  {"kube-system", "", []string{}, contract.ModeTProxy},
		"no Kubernetes":      {"", "", nil, contract.ModeTProxy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entry := map[string]any{"mode": contract.ModeTProxy}
			if tt.exempt != nil {
				entry["exemptNamespaces"] = tt.exempt
			}
			s := setup{entry: entry, mode: tt.mode}
			if tt.namespace != "" {
				s.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + tt.namespace + ";K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=x"
			}
			p := prepare(t, s)
			p.add()
			p.nginx(t)
			if tt.want == "" {
				p.mode = contract.ModeNAT // as a mode that promises the port
				p.inFamilies(t, p.wantExact)
				if out := p.Pod.Run("nft", "list", "ruleset"); out != "" {
					t.Errorf("it is programmed: %s", out)
				}
				return
			}
			p.inFamilies(t, func(t *testing.T, f family) {
				if conn, err := p.Client.Dial("tcp", f.client, addr(f.pod, webPort)); err == nil {
					conn.Close()
					t.Error("without a sidecar it is reached")
				}
			})
			p.mode = tt.want
			p.start()
			p.inFamilies(t, p.wantExact)
		})
	}
}

// TestBadAnnotations: one error names every fault, and the pod is not changed.
func TestBadAnnotations(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"proxy-port": "65536", "admin-port": "x", "include-inbound-ports": "9-1",
		"exclude-source-cidrs": "10.0.0.0/33", "colour": "red",
	}
	p := prepare(t, setup{mode: "natt", annotations: bad, bare: true})
	t.Cleanup(func() { _, _ = p.cni("del") })
	out, err := p.cni("add")
	if err == nil {
		t.Fatal(out)
	}
	bad["mode"] = "natt"
	for key, value := range bad {
		if !strings.Contains(out, contract.AnnotationPrefix+key) || !strings.Contains(out, value) {
			t.Errorf("no %s %q in %s", key, value, out)
		}
	}
	if state := p.Pod.Run("nft", "list", "ruleset") + p.Pod.Run("ip", "rule"); strings.Contains(state, contract.Table) || strings.Contains(state, "fwmark") {
		t.Error(state)
	}
}

// TestDrift: CHECK names what was changed, and ADD repairs it under running
// connections; additions by others are not drift.
func TestDrift(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.Pod.Run("nft", "add table inet other; add chain inet other c { type filter hook input priority 0; }")
		p.Pod.Run("ip", "rule", "add", "pref", "100", "fwmark", "7", "lookup", "7")
		p.ours(t, "CHECK")
		for _, drift := range []struct{ change, names string }{
			{"nft delete table netdev tproxy_cni", "table netdev tproxy_cni is missing"},
			{"nft flush chain inet tproxy_cni spoofed", "the rule of chain spoofed that lets uid 7089 open the spoofed leg is missing"},
			{"nft insert rule inet tproxy_cni output accept", "rule 1 of chain output of table inet tproxy_cni is unexpected"},
			{"nft add element inet tproxy_cni own4 { 203.0.113.9 }", "holds 203.0.113.9"},
			{"ip rule del pref 0 lookup local suppress_prefixlength 0", `ipv4 rule "0: from all lookup local suppress_prefixlength 0" is missing`},
			{"ip rule add pref 0 lookup local", `ipv4 rule "0: from all lookup local" is there`},
			{"ip -6 rule del pref 0 fwmark 0x1000/0x1000 unreachable", `ipv6 rule "0: from all fwmark 0x1000/0x1000 unreachable" is missing`},
			{"ip -6 rule del pref 0 uidrange 7089-7089", `ipv6 rule "0: from all uidrange 7089-7089 lookup main suppress_ifgroup default" is missing`},
			{"ip link set dev eth0 group default", "interface eth0 is in group default, not 29808"},
			{"ip route del local default dev lo table local", `ipv4 route "local default dev lo table 255" is missing`},
			{"ip -6 route del local default dev lo table 29808", `ipv6 route "local default dev lo table 29808" is missing`},
			{"sysctl -qw net.ipv4.tcp_fwmark_accept=0", "sysctl net.ipv4.tcp_fwmark_accept is 0"},
		} {
			p.Pod.Run(strings.Fields(drift.change)...)
			if out, err := p.try(t, p.plugin, "CHECK"); err == nil || !strings.Contains(strings.ReplaceAll(out, `\"`, `"`), drift.names) {
				t.Errorf("%s: CHECK says %q", drift.change, out)
			}
			p.ours(t, "ADD")
			if out, err := p.try(t, p.plugin, "CHECK"); err != nil {
				t.Errorf("%s: not repaired: %s", drift.change, out)
			}
		}
		p.waitReady() // the sidecar may have seen one of them
		p.inFamilies(t, p.wantExact)
	})
}

// ours runs our plugin alone, as a runtime does behind the others of its
// chain, and returns its answer. What ADD says on stderr where the kernel cannot have the
// whole packet guard comes before that.
func (p *pod) ours(t *testing.T, verb string) string {
	t.Helper()
	out, err := p.try(t, p.plugin, verb)
	if err != nil {
		t.Fatalf("%s: %v\n%s", verb, err, out)
	}
	if _, answer, said := strings.Cut(out, "\n{"); said {
		return "{" + answer
	}
	return out
}

// try runs a release's plugin alone; its output has its error, too.
func (p *pod) try(t *testing.T, r release, verb string) (string, error) {
	t.Helper()
	return p.Node.TryCmd(p.command(t, r, verb))
}

// command is a release's plugin alone, not started yet.
func (p *pod) command(t *testing.T, r release, verb string) *exec.Cmd {
	t.Helper()
	conf := p.ourEntry()
	conf["cniVersion"], conf["name"] = p.version, p.Pod.Name()
	conf["prevResult"] = json.RawMessage(p.result)
	conf["runtimeConfig"] = map[string]any{contract.AnnotationsCapability: p.podAnnotations()}
	text, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(r.bin(t, "tproxy-cni"))
	cmd.Stdin = bytes.NewReader(text)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + p.Pod.Name(), "CNI_NETNS=" + p.Pod.Path(),
		"CNI_IFNAME=eth0", "CNI_PATH=" + filepath.Dir(cmd.Path),
	}
	return cmd
}

func object(t *testing.T, text string) (o map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return o
}

// snapshot is all of the pod's network state that a plugin can change.
func (p *pod) snapshot(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"nft": p.Pod.Run("nft", "-s", "list", "ruleset")}
	for _, what := range []string{"link", "addr", "rule", "route show table all"} {
		for _, f := range []string{"-4", "-6"} {
			out := p.Pod.Run(append([]string{"ip", "-o", f}, strings.Fields(what)...)...)
			// ip searches all namespaces of the machine for the veth's peer,
			// including those that are being removed.
			out = strings.ReplaceAll(out, "Error: Peer netns reference is invalid.\n", "")
			all["ip "+f+" "+what] = out
		}
	}
	if err := p.Pod.Do(func() error { return sysctls(all) }); err != nil {
		t.Fatal(err)
	}
	return all
}

// sysctls reads all network settings of the thread's namespace.
func sysctls(into map[string]string) error {
	for _, dir := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			// Some are write-only, or not readable in this namespace.
			if text, err := os.ReadFile(path); err == nil {
				into[path] = string(text)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
