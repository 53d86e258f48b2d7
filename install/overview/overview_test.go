package overview

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

func fine() Facts {
	return Facts{
		Node: "n1", Kernel: "6.12.1", Installer: "v0.2.0 go1.26", Socket: "/run/containerd/containerd.sock",
		Sight: node.Sight{
			ConfDir: "/etc/cni/net.d", List: "10-flannel.conflist", Entry: []byte(`{"type":"tproxy-cni","mode":"nat"}`),
			Binary: "/opt/cni/bin/tproxy-cni", Version: "v0.2.0 go1.26",
		},
		Kernels: []preflight.Verdict{{Mode: contract.ModeNAT, Missing: []string{}}, {Mode: contract.ModeTProxy, Missing: []string{}}},
	}
}

func pod(st state.State) Pod {
	return Pod{
		Pod: pods.Pod{ID: "0123", Namespace: "demo", Name: "echo-7d4b9c6f5-abcde"},
		Finding: state.Finding{
			State: st, Mode: contract.ModeNAT, Config: intercept.Default(contract.ModeNAT), Err: errors.New("why \x1b[2J"),
			Drift: intercept.Drift{"the rule of chain spoofed that lets uid 7089 open the spoofed leg is missing", "sysctl net.ipv4.fwmark_reflect is 0, not 1"},
		},
	}
}

func with(image string, uid int64, running bool) Pod {
	p := pod(state.Intercepted)
	p.Finding.Err, p.Finding.Drift = nil, nil
	p.Containers = []pods.Container{{Name: "app", Image: "app:1", UID: 1000, Running: true}, {Name: "proxy", Image: image, UID: uid, Running: running}}
	return p
}

// hookless is a node whose kernel has no hook for the whole packet guard, with that
// entry, or one without a default, and pods that ask for these modes and that guard.
func hookless(entry []byte, guard contract.PacketGuard, modes ...contract.Mode) func(*Facts) {
	return func(f *Facts) {
		if f.Sight.Entry = entry; entry == nil {
			f.Sight.Entry = []byte(`{"type":"tproxy-cni"}`)
		}
		for i := range f.Kernels {
			f.Kernels[i].Guard, f.Kernels[i].Text = string(contract.GuardTC), "without the hook"
		}
		for _, mode := range modes {
			p := with("x/proxy:v0.2.0", 7089, true)
			p.Finding.Mode, p.Finding.Config = mode, intercept.Default(mode)
			p.Finding.Config.PacketGuard, p.Guard = guard, contract.GuardTC
			f.Pods = append(f.Pods, p)
		}
	}
}

// TestLines: each state of a pod and of the node, in words, with one next step for
// each fault, and the exit status.
func TestLines(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		want   string // a line of the report
		next   string // of the next step; empty for none
		exit   int
	}{
		{"nothing asks", func(*Facts) {}, "no pod asks for interception, 0 faults", "", 0},
		{"entry", func(*Facts) {}, " √ entry in /etc/cni/net.d/10-flannel.conflist, default mode nat; exempt namespaces: kube-*,openshift-*", "", 0},
		{"no default", func(f *Facts) { f.Sight.Entry = []byte(`{"type":"tproxy-cni"}`) }, " √ entry in /etc/cni/net.d/10-flannel.conflist, for pods with the annotation", "", 0},
		{"no entry", func(f *Facts) {
			f.Sight.Entry, f.Sight.EntryErr = nil, errors.New("10-flannel.conflist: entry missing")
		}, " × entry: 10-flannel.conflist: entry missing: new pods are not intercepted", "run the installer", 1},
		{"wrong entry", func(f *Facts) { f.Sight.Entry = []byte(`{"type":"tproxy-cni","mode":"nut"}`) }, " × entry in /etc/cni/net.d/10-flannel.conflist: conflist key mode \"nut\"", "mend the entry", 1},
		{"not root", func(f *Facts) {
			f.Sight.Entry, f.Sight.EntryErr = nil, &fs.PathError{Op: "open", Path: "/etc/cni/net.d", Err: fs.ErrPermission}
		}, " ! entry: open /etc/cni/net.d: permission denied", "run this as root", 3},
		{"no directory", func(f *Facts) {
			f.Sight.Entry, f.Sight.EntryErr = nil, &fs.PathError{Op: "open", Path: "/etc/cni/net.d", Err: fs.ErrNotExist}
		}, " ! entry: open /etc/cni/net.d: file does not exist", "--cni-conf-dir", 3},
		{"no plugin", func(f *Facts) { f.Sight.Version, f.Sight.BinaryErr = "", fs.ErrNotExist }, " × plugin: file does not exist: every new pod fails", "run the installer", 1},
		{"another plugin", func(f *Facts) { f.Sight.Version = "v0.1.0 go1.26" }, " ! this program is v0.2.0 go1.26, the plugin is v0.1.0 go1.26", "", 0},
		{"kernel, needed", func(f *Facts) { f.Kernels[0].Missing = []string{"nft redirect"} }, " × kernel: mode nat lacks nft redirect", "kernel option", 1},
		{"kernel, not needed", func(f *Facts) { f.Kernels[1].Missing = []string{"nft tproxy"} }, " ! kernel: mode tproxy lacks nft tproxy; nobody asks for it", "", 0},
		{"kernel, unknown", func(f *Facts) { f.KernelErr = errors.New("not permitted") }, " ! kernel: not permitted", "run this as root", 3},
		{"no hook, no default, nobody asks", hookless(nil, contract.PacketGuardBestEffort), " ! kernel: without the hook", "", 0},
		{"no hook, no default, all ask for less", hookless(nil, contract.PacketGuardBestEffort, contract.ModeNAT), " ! kernel: without the hook", "", 0},
		{"no hook, no default, one requires it", hookless(nil, contract.PacketGuardRequired, contract.ModeNAT), " × kernel: the whole packet guard is required", "a newer kernel, or packet-guard best-effort", 1},
		{"no hook, the default requires it", hookless([]byte(`{"type":"tproxy-cni","mode":"nat"}`), contract.PacketGuardBestEffort, contract.ModeNAT), " × kernel: the whole packet guard is required", "a newer kernel, or packet-guard best-effort", 1},
		{"no hook, the default allows less", hookless([]byte(`{"type":"tproxy-cni","mode":"nat","packetGuard":"best-effort"}`), contract.PacketGuardBestEffort, contract.ModeNAT), " ! kernel: without the hook", "", 0},
		{"no runtime", func(f *Facts) { f.Socket = "" }, " ! no container runtime's socket found", "--cri-socket", 3},
		{"mute runtime", func(f *Facts) { f.RuntimeErr = errors.New("connection refused") }, " ! container runtime at /run/containerd/containerd.sock: connection refused", "--cri-socket", 3},

		{"intercepted", func(f *Facts) { f.Pods = []Pod{with("x/proxy:v0.2.0", 7089, true)} }, " √ demo/echo-7d4b9c6f5-abcde  nat  intercepted, sidecar v0.2.0", "", 0},
		{"another sidecar", func(f *Facts) { f.Pods = []Pod{with("nginx@sha256:0", 7089, true)} }, " √ demo/echo-7d4b9c6f5-abcde  nat  intercepted\n", "", 0},
		{"older plugin", func(f *Facts) { f.Pods = []Pod{with("x:5000/proxy:v0.10.0", 7089, true)} }, "the plugin v0.2.0 is older than the sidecar", "update the installer", 0},
		{"no sidecar", func(f *Facts) { f.Pods = []Pod{with("x", 7090, true)} }, " × demo/echo-7d4b9c6f5-abcde  nat  intercepted, but no container runs as uid 7089", "inject", 1},
		{"counted", func(f *Facts) {
			p, n := with("x/proxy:v0.2.0", 7089, true), uint64(1204)
			p.Redirected = &n
			f.Pods = []Pod{p}
		}, "intercepted, sidecar v0.2.0, 1204 connections so far", "", 0},
		{"uids unknown", func(f *Facts) { f.Pods = []Pod{with("x", -1, true)} }, " √ demo/echo-7d4b9c6f5-abcde  nat  intercepted\n", "", 0},
		{"dead sidecar", func(f *Facts) { f.Pods = []Pod{with("x", 7089, false)} }, "but the sidecar (container proxy) does", "kubectl logs -n demo echo-7d4b9c6f5-abcde -c proxy\n", 1},
		{"dead sidecar, started again", func(f *Facts) {
			f.Pods = []Pod{with("x", 7089, false)}
			f.Pods[0].Containers[1].Attempt = 1
		}, "but the sidecar (container proxy) does", "kubectl logs -n demo echo-7d4b9c6f5-abcde -c proxy --previous", 1},
		{"ended init container of the same user", func(f *Facts) {
			p := with("x/proxy:v0.2.0", 7089, true)
			p.Containers = append([]pods.Container{{Name: "prepared", UID: 7089}}, p.Containers...)
			f.Pods = []Pod{p}
		}, " √ demo/echo-7d4b9c6f5-abcde  nat  intercepted, sidecar v0.2.0", "", 0},
		{"came first", func(f *Facts) { f.Pods = []Pod{pod(state.CameFirst)} }, " × demo/echo-7d4b9c6f5-abcde  nat  came first", "delete the pod, or run the installer with --repair", 1},
		{"drifted", func(f *Facts) { f.Pods = []Pod{pod(state.Drifted)} }, "drifted: the rule of chain spoofed that", "run the installer with --repair", 1},
		{"another interceptor", func(f *Facts) { f.Pods = []Pod{pod(state.Contested)} }, "another interceptor: the rule", "remove the other injection", 1},
		{"left alone", func(f *Facts) { f.Pods = []Pod{pod(state.LeftAlone)} }, " ! demo/echo-7d4b9c6f5-abcde  nat  it has no annotation", "", 0},
		{"hostNetwork", func(f *Facts) { f.Pods = []Pod{pod(state.HostNetwork)} }, " × demo/echo-7d4b9c6f5-abcde  nat  hostNetwork", "take hostNetwork", 1},
		{"Kata", func(f *Facts) { f.Pods = []Pod{pod(state.OtherStack)} }, " × demo/echo-7d4b9c6f5-abcde  nat  why", "RuntimeClass", 1},
		{"invalid", func(f *Facts) { f.Pods = []Pod{pod(state.Invalid)} }, "its settings: why \\x1b[2J", "mend the annotation", 1},
		{"not ready", func(f *Facts) { f.Pods = []Pod{pod(state.NotReady)} }, " ! demo/echo-7d4b9c6f5-abcde  nat  not ready", "", 0},
		{"unknown", func(f *Facts) { f.Pods = []Pod{pod(state.Unknown)} }, " ! demo/echo-7d4b9c6f5-abcde  nat  unknown: why", "as root", 3},
		{"no namespace", func(f *Facts) {
			p := pod(state.Unknown)
			p.Finding.Err = intercept.NoNetNS{Path: "/run/netns/x", Why: "gone"}
			f.Pods = []Pod{p}
		}, "no network namespace", "look again", 3},
		{"not asked", func(f *Facts) { f.Pods = []Pod{pod(state.NotAsked)} }, "no pod asks", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fine()
			tt.change(&f)
			r := New(f)
			var b bytes.Buffer
			if err := r.Print(&b, os.Getenv); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			joined := strings.ReplaceAll(text, "\n   ", " ")
			if !strings.Contains(joined, tt.want) || r.Summary.ExitStatus != tt.exit {
				t.Errorf("exit status %d, want %d and %q:\n%s", r.Summary.ExitStatus, tt.exit, tt.want, text)
			}
			if n := strings.Count(text, "NEXT "); n > 1 || (n == 1) != (tt.next != "") || !strings.Contains(joined, tt.next) {
				t.Errorf("next step, want %q:\n%s", tt.next, text)
			}
			for line := range strings.Lines(text) {
				if utf8.RuneCountInString(line) > 81 || strings.Contains(line, "\x1b") {
					t.Errorf("%q", line)
				}
			}
			wellFormed(t, r)
		})
	}
}

// wellFormed: the JSON has the fields that REFERENCE.md names, and each fault has
// its next step.
func wellFormed(t *testing.T, r Report) {
	t.Helper()
	var b bytes.Buffer
	var v any
	if err := errors.Join(r.JSON(&b), json.Unmarshal(b.Bytes(), &v)); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["verdict"] == "fault" && v["next"] == nil {
				t.Errorf("a fault without a next step: %v", v)
			}
			for key, one := range v {
				if !regexp.MustCompile(`^[a-z_]+$`).MatchString(key) || !strings.Contains(string(page), "`"+key+"`") {
					t.Errorf("docs/REFERENCE.md does not name %q", key)
				}
				if key != "entry" { // as it is on the node
					walk(one)
				}
			}
		case []any:
			for _, one := range v {
				walk(one)
			}
		}
	}
	walk(v)
}

// TestOlder: only releases are compared.
func TestOlder(t *testing.T) {
	for _, tt := range []struct {
		plugin, sidecar string
		want            bool
	}{
		{"v0.2.0 go1.26", "v0.10.0", true},
		{"v0.2.0 abc go1.26", "0.2.1", true},
		{"v1.0.0 go1.26", "v0.9.9", false},
		{"v0.2.0", "v0.2.0", false},
		{"dev go1.26", "v9.0.0", false},
		{"v0.2.0", "latest", false},
		{"v0.2.0-rc.1", "v0.2.0", false},
		{"", "v1.0.0", false},
	} {
		if got := older(tt.plugin, tt.sidecar); got != tt.want {
			t.Errorf("%+v: %t", tt, got)
		}
	}
	for image, want := range map[string]string{
		"x/proxy:v0.2.0": "v0.2.0", "reg:5000/proxy": "", "reg:5000/proxy:0.1.2@sha256:0": "0.1.2", "proxy:latest": "", "proxy": "", "sha256:1": "",
	} {
		if got := tag(image); got != want {
			t.Errorf("%s: %q", image, got)
		}
	}
}
