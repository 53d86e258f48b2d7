package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// nasty is hostile text where a word is expected. A file's name cannot have a
// slash.
const nasty = "x\x1b]0;t\x07\x1b[2J\nlevel=ERROR msg=fake\r\n\u202e\u2066\u2028\u200b\u009b\x7f\xff\xc3 \U000e0041\"\\'; ready"

// TestForeignTexts: text of others' configurations comes out in the log, at
// /readyz and in an error as printable text of a bounded length.
func TestForeignTexts(t *testing.T) {
	long := strings.Repeat(nasty, 5000)
	for _, text := range []string{nasty, long} {
		q := inJSON(t, text)
		name := text[:min(len(text), 200)]
		for what, make := range map[string]func(n *testNode){
			"plugin": func(n *testNode) {
				n.WriteConf("10-a.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":`+q+`}]}`)
			},
			"single": func(n *testNode) { n.WriteConf("10-a.conf", `{"name":`+q+`,"cniVersion":"1.0.0","type":`+q+`}`) },
			"version": func(n *testNode) {
				n.WriteConf("10-a.conflist", `{"name":"n","cniVersion":`+q+`,"plugins":[{"type":"bridge"}]}`)
			},
			"versions": func(n *testNode) {
				n.WriteOldConf("10-a.conflist", `{"name":"n","cniVersions":[`+q+`],"plugins":[{"type":"bridge"}]}`)
			},
			"boolean": func(n *testNode) {
				n.WriteConf("10-a.conflist", `{"name":"n","disableGC":`+q+`,"plugins":[{"type":"bridge"}]}`)
			},
			"list's name": func(n *testNode) {
				n.WriteConf("10-a.conflist", `{"name":`+q+`,"cniVersion":"1.0.0","plugins":[{"type":"tproxy-cni"}]}`)
			},
			"file's name": func(n *testNode) { n.WriteConf("10-"+name+".conflist", nodetest.ValidList) },
			"broken":      func(n *testNode) { n.WriteConf("10-"+name+".conflist", text) },
			"broken, 900": func(n *testNode) {
				for i := range 900 {
					n.WriteOldConf(fmt.Sprintf("%d%s.conflist", i, name[:min(len(name), 100)]), text[:60])
				}
			},
			"link": func(n *testNode) {
				must(t, os.Symlink("/tmp/"+strings.ReplaceAll(name, "/", ""), filepath.Join(n.ConfDir, name+".conflist")))
			},
			"link out": func(n *testNode) {
				n.WriteConf("x", nodetest.ValidList)
				to := filepath.Join(filepath.Dir(n.ConfDir), name)
				must(t, os.Rename(filepath.Join(n.ConfDir, "x"), to))
				must(t, os.Symlink(to, filepath.Join(n.ConfDir, name+".conflist")))
			},
			"guests": func(n *testNode) {
				n.WriteConf("10-a.conf", `{"name":"n","cniVersion":"1.0.0","type":"bridge"}`)
				n.WriteConf("10-a-tproxy-cni.conflist", `{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":`+q+`}]}`)
			},
			"set aside": func(n *testNode) { n.WriteConf(name+".cilium_bak", `{"type":"tproxy-cni"}`) },
			"delegate": func(n *testNode) {
				n.WriteConf(name+".conf", `{"name":"n","type":"bridge","delegates":[{"type":"tproxy-cni"}]}`)
			},
		} {
			for _, verb := range []string{"install", "uninstall"} {
				t.Run(fmt.Sprintf("%s, %d, %s", what, len(text), verb), func(t *testing.T) {
					n := newTestNode(t)
					make(n)
					target := n.Installer()
					var o node.Outcome
					var err error
					if verb == "install" {
						o, err = target.Install(context.Background())
					} else {
						o, err = target.Uninstall(context.Background(), node.Remove)
					}
					s := health.New(contract.ModeNAT, contract.PacketGuardRequired)
					var log bytes.Buffer
					report(slog.New(slog.NewTextHandler(&log, nil)), s, o, "done", err)
					shown(t, "log", log.String())
					for _, path := range []string{"/readyz", "/healthz", "/metrics"} {
						w := httptest.NewRecorder()
						s.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
						shown(t, path, w.Body.String())
					}
					out, _ := n.command(verb, "--once").CombinedOutput()
					shown(t, "stderr", string(out))
				})
			}
		}
	}
}

// shown checks that a text may be shown: it is printable ASCII of a bounded length
// and has no forged line.
func shown(t *testing.T, where, text string) {
	t.Helper()
	if len(text) > 50<<10 {
		t.Errorf("%s: %d bytes: %.1000q", where, len(text), text)
	}
	for _, line := range strings.Split(text, "\n") {
		if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			t.Errorf("%s: does not print: %.1000q", where, line)
		}
		if strings.HasPrefix(line, "level=ERROR msg=fake") || len(line) > 10<<10 {
			t.Errorf("%s: %.1000q", where, line)
		}
	}
}

// TestForeignArguments: hostile text in the command line, in the environment and
// in what inject reads.
func TestForeignArguments(t *testing.T) {
	for _, text := range []string{nasty, strings.Repeat(nasty, 900)} {
		q := inJSON(t, text)
		for _, args := range [][]string{
			{text},
			{"install", text},
			{"install", "--" + text},
			{"install", "--once=" + text},
			{"install", "--mode", text, "--listen", text, "--cni-conf-dir", text},
			{"setup", "--mode", "nat", "--interface", text},
			{"setup", "--mode", text},
			{"setup", "--proxy-uid", text, "--exclude-source-cidrs", text + "," + text},
			{"inject", "-f", text},
			{"inject", "--mode", text},
			{"uninstall", "--cri-socket", text},
		} {
			_, _, stderr := call(map[string]string{"TPROXY_LOG_LEVEL": text, "TPROXY_LISTEN": text}, "", args...)
			shown(t, fmt.Sprintf("%.100q", args), stderr)
			_, _, stderr = call(nil, "", args...)
			shown(t, fmt.Sprintf("%.100q", args), stderr)
		}
		for _, pod := range []string{
			text, "a: " + q + "\n---\n" + text,
			`{apiVersion: v1, kind: Pod, metadata: {name: ` + q + `}}`,
			`{apiVersion: v1, kind: Pod, metadata: {name: ` + q + `, labels: {tproxy-cni.io/inject: ` + q + `}}, spec: {containers: [{name: ` + q + `, ports: [{containerPort: 5000}], securityContext: {runAsUser: 7089}}]}}`,
			`{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {tproxy-cni.io/mode: ` + q + `, tproxy-cni.io/` + strings.Trim(q, `"`)[:20] + `: x}}, spec: {containers: [{name: a}]}}`,
			`{apiVersion: ` + q + `, kind: ` + q + `, spec: {}}`,
			`&a {apiVersion: v1, kind: List, items: [*a]}`,
		} {
			_, _, stderr := call(nil, pod, "inject")
			shown(t, fmt.Sprintf("%.100q", pod), stderr)
		}
	}
}

// TestForeignPods: hostile text of pods' authors, through the runtime.
func TestForeignPods(t *testing.T) {
	fake := &fakeRuntime{}
	fake.set(
		fakePod{name: "a\x1b[2J\nlevel=ERROR msg=fake\u202e", netns: "/x\x1b\u202e", annotations: map[string]string{contract.AnnotationPrefix + "mode": "nat"}},
		fakePod{name: strings.Repeat("b\n", 5000), annotations: map[string]string{contract.AnnotationPrefix + strings.ToValidUTF8(nasty, ""): strings.Repeat("\u009b", 10000)}},
		fakePod{name: "pipe", annotations: map[string]string{contract.AnnotationPrefix + "mode": "nat"}, netns: func() string {
			path := filepath.Join(t.TempDir(), "pipe")
			must(t, syscall.Mkfifo(path, 0o600))
			return path
		}()},
	)
	n := newTestNode(t, "10-flannel.conflist")
	s := n.start("install", "--preflight=false", "--repair", "--repair-every", "1s", "--cri-socket", serveRuntime(t, fake))
	s.want("/metrics", 200, `tproxy_install_pods_repaired_total{kind="unknown",result="failed"} 2`,
		`tproxy_install_pods_repaired_total{kind="invalid",result="failed"} 1`)
	lab.Eventually(t, "what is wrong with the pipe, in the log", func() error {
		if !strings.Contains(s.log.String(), "it is a pipe, not a namespace's file") {
			return errors.New(s.log.String())
		}
		return nil
	})
	s.stop()
	shown(t, "log", s.log.String())

	// So they do in a report, and so does the text of whoever edits the node's list.
	n.Edit("10-flannel.conflist", `"mode":"nat"`, "\"mode\":\"nat\",\"cni.dev/\u202e\U0001f600\":\"\u009b\x7f\"")
	for _, args := range [][]string{nil, {"--json"}} {
		out, stderr, _ := n.shownBy(append(args, "--cri-socket", serveRuntime(t, fake))...)
		for _, mark := range []string{"√", "×"} {
			out = strings.ReplaceAll(out, mark, "")
		}
		shown(t, "status", strings.ReplaceAll(out, "\n", " ")+stderr)
		if !strings.Contains(out, `b\nb\nb`) && !strings.Contains(out, `b\\nb\\nb`) {
			t.Errorf("the pods are not there:\n%s", out)
		}
		if args != nil && !strings.Contains(out, `"cni.dev/\u202e\ud83d\ude00": "\u009b\u007f"`) {
			t.Errorf("the entry is not there:\n%s", out)
		}
	}
}

func inJSON(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	must(t, err)
	return string(b)
}
