package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// byName are the arguments with which explain finds the pod through the runtime.
func (p *pod) byName(t *testing.T, r *criPod, dir string) []string {
	return []string{"demo/echo-1", "--cri-socket", r.serve(t), "--cni-conf-dir", dir, "--cni-bin-dir", filepath.Dir(bin(t, "tproxy-cni"))}
}

// runtime is the pod as a runtime shows it, made after the entry in the list of dir.
func (p *pod) runtime(t *testing.T) (r *criPod, dir string) {
	t.Helper()
	dir = t.TempDir()
	list := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"flannel","plugins":[{"type":"flannel"},{"type":%q,"capabilities":{%q:true}}]}`,
		contract.PluginType, contract.AnnotationsCapability)
	path := write(t, filepath.Join(dir, "10-flannel.conflist"), list)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	r = &criPod{netns: p.Pod.Path(), annotations: maps.Clone(p.podAnnotations()), created: info.ModTime().Add(time.Second)}
	for _, f := range p.fams() {
		r.addrs = append(r.addrs, f.pod)
	}
	return r, dir
}

// TestExplainPod: what the runtime, the node's files and its conntrack say counts.
func TestExplainPod(t *testing.T) {
	t.Parallel()
	annotations := map[string]string{"exclude-inbound-ports": "22", "exclude-source-cidrs": lab.OtherClient4 + "/32"}
	if !lab.Has(t, lab.EgressHook) {
		annotations["packet-guard"] = string(contract.PacketGuardBestEffort)
	}
	p := newPod(t, setup{mode: contract.ModeNAT, annotations: annotations})
	p.Pod.StartAs(app, "socat", "TCP6-LISTEN:8080,ipv6only=0,fork", "EXEC:cat").WaitListen(8080)
	p.Pod.Start("nc", "-lk", "127.0.0.1", "9000").WaitListen(9000)
	p.Pod.Start("nc", "-lkp", "22").WaitListen(22)
	t.Run("golden", func(t *testing.T) {
		lab.NeedKernel(t, lab.EgressHook) // which the sample's pod has
		r, dir := p.runtime(t)
		out, err := p.Node.Try(append([]string{bin(t, "tproxy-install"), "explain"}, p.byName(t, r, dir)...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		wantSample(t, "testdata/explain.txt", out)
	})
	t.Run("the sidecar's status", func(t *testing.T) {
		lab.NeedKernel(t, lab.EgressHook)
		nc, say := talker(t, p.Client, "nc", "-s", lab.Client4, "-p", "61744", lab.Pod4, "8080")
		say("hello\n")
		nc.WaitLog("hello")
		out, err := p.Pod.TryAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true}, bin(t, "tproxy-proxy"), "status")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		wantSample(t, "testdata/status.txt", out)
	})
	for _, c := range []struct {
		name, code, next string
		args             []string
		change           func(*testing.T, *criPod, string)
	}{
		{"an excluded port", "exempt_port", "exclude-inbound-ports", []string{"--port", "22"}, nil},
		{"an excluded client", "exempt_client", "exclude-source-cidrs", []string{"--client", lab.OtherClient4}, nil},
		{"an application on loopback", "listens_elsewhere", "logs echo-1", []string{"--port", "9000"}, nil},
		{"nobody on the port", "no_listener", "logs echo-1", []string{"--port", "81"}, nil},
		{"hostNetwork", "host_network", "hostNetwork: true", nil, func(_ *testing.T, r *criPod, _ string) { r.host = true }},
		{"Kata Containers", "other_stack", "runtimeClassName", nil, func(_ *testing.T, r *criPod, _ string) { r.handler = "kata" }},
		{"gVisor", "other_stack", "runtimeClassName", nil, func(_ *testing.T, r *criPod, _ string) { r.handler = "runsc" }},
		{"a wrong setting", "settings_invalid", "mend the setting", nil, func(_ *testing.T, r *criPod, _ string) { r.annotations[contract.AnnotationPrefix+"mode"] = "nut" }},
		{"a default mode that is none now", "healthy", "nothing", nil, func(_ *testing.T, r *criPod, _ string) { delete(r.annotations, contract.AnnotationPrefix+"mode") }},
		{"defaults that are others now", "healthy", "nothing", nil, func(t *testing.T, r *criPod, dir string) {
			delete(r.annotations, contract.AnnotationPrefix+"mode")
			entry, err := settings.NewEntry(map[string]string{"mode": contract.ModeTProxy, "proxy-uid": "4242"})
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "10-flannel.conflist"), `{"cniVersion":"1.0.0","name":"flannel","plugins":[{"type":"flannel"},`+string(entry)+`]}`)
		}},
		{"not to connect", "not_tried", "--watch", []string{"--connect=false"}, nil},
		{"no connection of the client", "not_tried", "--watch", []string{"--client", lab.Client6, "--wait", "1ms"}, nil},
		{"masquerading", "client_replaced", "externalTrafficPolicy: Local", nil, func(t *testing.T, _ *criPod, _ string) {
			p.Node.Run("nft", fmt.Sprintf("add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; "+
				"add chain ip nat post { type nat hook postrouting priority 100; }; "+
				"add rule ip nat pre tcp dport 30080 dnat to %s:8080; add rule ip nat post ip daddr %[1]s masquerade", lab.Pod4))
			watch := p.Node.Start(append([]string{bin(t, "tproxy-install"), "explain", "--netns", p.Pod.Path(), "--watch"}, p.asked(t)...)...).WaitLog("follows")
			lab.Eventually(t, "its table", func() error {
				if out := p.Pod.Run("nft", "list", "tables"); !strings.Contains(out, "tproxy_trace_") {
					return errors.New(out)
				}
				return nil
			})
			conn, err := p.Client.Dial("tcp", lab.Client4, addr(lab.Node4, 30080))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			watch.WaitLog("the client's address was replaced before the pod")
			watch.WaitLog(conn.LocalAddr().String() + " > ")
		}},
		{"a pod older than the entry", "older_than_entry", "kubectl -n demo delete pod echo-1", nil, func(_ *testing.T, r *criPod, _ string) {
			p.unprogram(t)
			r.created = r.created.Add(-time.Hour)
		}},
		{"no annotation", "not_asked", "mode: nat", nil, func(_ *testing.T, r *criPod, _ string) { r.annotations = nil }},
		{"no entry", "not_in_chain", "k8s/install", nil, func(t *testing.T, _ *criPod, dir string) {
			write(t, filepath.Join(dir, "10-flannel.conflist"), `{"cniVersion":"1.0.0","name":"flannel","plugins":[{"type":"flannel"}]}`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := p.runtime(t)
			if c.change != nil {
				c.change(t, r, dir)
			}
			got := p.explainAs(t, append(p.byName(t, r, dir), c.args...)...)
			if said := got.Next.Text + "\n" + got.Next.Command; got.Verdict.Code != c.code || !strings.Contains(said, c.next) {
				t.Errorf("%s: %s\nnext: %s\nchecks: %+v", got.Verdict.Code, got.Verdict.Text, said, got.Checks)
			}
		})
	}
}

// TestExplainIPv4Only: a pod without IPv6 is healthy, and a client of the family that it
// does not have is told so.
func TestExplainIPv4Only(t *testing.T) {
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT, families: "4"})
	p.Pod.StartAs(app, "nc", "-lkp", "8080").WaitListen(8080)
	p.wantVerdict(t, "healthy")
	p.wantVerdict(t, "no_family", "--client", lab.Client6)
}

// TestExplainNotReady: the sidecar's own reason counts.
func TestExplainNotReady(t *testing.T) {
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeTProxy, families: "4", bare: true})
	p.Pod.StartAs(app, "nc", "-lkp", "8080").WaitListen(8080)
	p.Pod.StartAs(lab.User{UID: contract.ProxyUID}, bin(t, "tproxy-proxy"), "--mode", contract.ModeNAT).WaitListen(contract.ProxyPort, contract.AdminPort)
	lab.Eventually(t, "its reason", func() error {
		r := p.explain(t)
		if v := r.Verdict; v.Code != "sidecar_not_ready" || !strings.Contains(v.Text, "for another mode than this process's --mode nat") {
			return fmt.Errorf("%+v", v)
		}
		if !strings.Contains(r.Next.Text, "mode") { // the sidecar's own cure
			return fmt.Errorf("%+v", r.Next)
		}
		return nil
	})
}

// wantSample compares a program's output with the sample in the documentation. What
// differs from run to run is masked in the output: ports that the kernel chose, the
// program's version, the host's name. Lines have at most 80 columns.
func wantSample(t *testing.T, path, got string) {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, mask := range []struct{ from, to string }{
		{`(` + regexp.QuoteMeta(lab.Gateway4) + `):\d+`, "$1:36177"},
		{`node\s+` + regexp.QuoteMeta(host) + `\s+`, "node n1  "},
		{`fd00:2::2\s+plugin (?s:.*?)\n √ annotation`, "fd00:2::2  plugin v0.2.0  sidecar v0.2.0\n √ annotation"}, // may be two lines
		{`tproxy-proxy .*  nat mode`, "tproxy-proxy v0.2.0  nat mode"},
		{`up \d+ .*`, "up 2 h"},
		{`checked \d+ s`, "checked 4 s"},
		{`at most \d+ open`, "at most 523264 open"},
		{`conntrack \d+ of \d+`, "conntrack 6 of 262144"},
		{`\d+ s  relaying`, "0 s  relaying"},
		{`(?m)^ √ :[3-6]\d{4} .*\n`, ""},                                 // the sidecar's check of the pod
		{`loop_refused \d+`, "loop_refused 1"},                           // the sidecar's check that the rules hold
		{`redirected \d+, spoofed \d+`, "redirected 1204, spoofed 1206"}, // the sidecar's own probes, too
	} {
		got = regexp.MustCompile(mask.from).ReplaceAllString(got, mask.to)
	}
	if !lab.Has(t, lab.EgressHook) {
		got = regexp.MustCompile(`(?m)^ . packet guard .*`).ReplaceAllString(got, " √ packet guard nft, the whole one")
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	want, err := os.ReadFile(path)
	if diff := cmp.Diff(string(want), got); err != nil || diff != "" {
		t.Errorf("%s (-file +program), %v:\n%s\nthe program's:\n%s", path, err, diff, got)
	}
}

// unprogram makes the pod what it was before ADD: the plugin alone undoes its part.
func (p *pod) unprogram(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin(t, "tproxy-cni"))
	cmd.Env = []string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=a1", "CNI_NETNS=" + p.Pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/nowhere"}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"x","type":"` + contract.PluginType + `"}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
