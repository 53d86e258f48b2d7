package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// call runs a command in this process.
func call(env map[string]string, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, log bytes.Buffer
	status = run(world{
		args: args, getenv: func(k string) string { return env[k] },
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &log,
	})
	return status, out.String(), log.String()
}

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		env    map[string]string
		status int
		stdout string
		stderr []string
	}{
		{args: nil, status: 2, stderr: []string{"usage: tproxy-install COMMAND"}},
		{args: []string{"--help"}, stdout: "usage: tproxy-install COMMAND"},
		{args: []string{"version"}, stdout: "tproxy-install " + version.String()},
		{args: []string{"--version"}, stdout: "tproxy-install " + version.String()},
		{args: []string{"instal"}, status: 2, stderr: []string{`unknown command "instal"`}},
		{args: []string{"install", "--help"}, stdout: `(TPROXY_CNI_CONF_DIR) (default "/etc/cni/net.d")`},
		{args: []string{"install", "now"}, status: 2, stderr: []string{`unexpected argument "now"`}},
		{args: []string{"uninstall", "--mode", "nat"}, status: 2, stderr: []string{"flag provided but not defined: -mode"}},
		{
			args: []string{"install", "--mode", "nut", "--listen", "17089", "--proxy-uid=0", "--cri-socket", "x"},
			env:  map[string]string{"TPROXY_LOG_FORMAT": "xml", "TPROXY_EXCLUDE_SOURCE_CIDRS": "10.0.0.1", "TPROXY_MODE": "nat"}, status: 2,
			stderr: []string{
				`--listen "17089": want [ADDRESS]:PORT`, `TPROXY_LOG_FORMAT "xml": want text or json`,
				`--cri-socket "x": want an absolute path`, `flag --mode "nut"`, `flag --proxy-uid "0"`, `10.0.0.1 has no prefix length`,
			},
		},
		{args: []string{"install", "--listen", ":99999"}, status: 2, stderr: []string{`--listen ":99999": want [ADDRESS]:PORT`}},
		{args: []string{"install", "--repair-every", "0s"}, status: 2, stderr: []string{`--repair-every "0s": want a time of 1s to 1h`}},
		{args: []string{"install", "--repair-every", "15"}, status: 2, stderr: []string{`--repair-every "15": want a time of 1s to 1h`}},
		{args: []string{"status", "--repair"}, status: 2, stderr: []string{"flag provided but not defined: -repair"}},
		{args: []string{"install", "--cni-conf-dir", "--once"}, status: 2, stderr: []string{`--cni-conf-dir "--once": want an absolute path`}},
		{args: []string{"uninstall", "--once", "--cni-bin-dir="}, status: 2, stderr: []string{`--cni-bin-dir "": want an absolute path`}},
		{args: []string{"uninstall", "--keep-binary", "--remove-binary"}, status: 2, stderr: []string{"--keep-binary and --remove-binary are opposites"}},
		{args: []string{"setup"}, status: 2, stderr: []string{"--mode is missing (want nat or tproxy)"}},
		{args: []string{"setup", "--mode", "none"}, status: 2, stderr: []string{"--mode is missing"}},
		{args: []string{"inject", "-f", "/not/there.yaml"}, status: 1, stderr: []string{"/not/there.yaml"}},
		{args: []string{"uninject", "-f", "/not/there.yaml", "-f", "/nor/there.yaml"}, status: 1, stderr: []string{"/not/there.yaml", "/nor/there.yaml"}},
		{args: []string{"inject", "-f="}, status: 1, stderr: []string{"no such file"}},
		{args: []string{"uninject", "--mode", "nat"}, status: 2, stderr: []string{"flag provided but not defined: -mode"}},
		{args: []string{"install", "--mode", "nat", "--exempt-namespaces", "demo,Bad"}, status: 2, stderr: []string{`flag --exempt-namespaces "demo,Bad": "Bad" is no namespace`}},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			status, stdout, stderr := call(tc.env, "", tc.args...)
			if status != tc.status || !strings.Contains(stdout, tc.stdout) {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
			for _, text := range tc.stderr {
				if !strings.Contains(stderr, text) {
					t.Errorf("not in stderr: %s\n%s", text, stderr)
				}
			}
		})
	}
}

// TestNodeDefaults: only settings that are given, by flag or by environment, go
// into the entry.
func TestNodeDefaults(t *testing.T) {
	conf, err := parseConfig("install", world{
		args:   []string{"install", "--mode", "tproxy", "--include-inbound-ports", "80,8000-8099"},
		getenv: func(k string) string { return map[string]string{"TPROXY_PROXY_PORT": "6000"}[k] },
	})
	must(t, err)
	n, err := newNode(world{}, conf)
	must(t, err)
	const want = `{"type":"tproxy-cni","mode":"tproxy","proxyPort":6000,"includeInboundPorts":"80,8000-8099",` +
		`"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`
	if diff := cmp.Diff(want, string(n.Entry)); diff != "" {
		t.Error(diff)
	}
}

func TestInject(t *testing.T) {
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: app, image: app}\n"
	status, stdout, stderr := call(map[string]string{"TPROXY_IMAGE": "example.test/proxy:1"}, pod, "inject", "--mode", "nat")
	if status != 0 || !strings.Contains(stdout, "image: example.test/proxy:1") || !strings.Contains(stdout, "tproxy-cni.io/mode") || stderr != "pods: 1 with the sidecar now\n" {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
	if status, back, stderr := call(nil, stdout, "uninject"); status != 0 || back != pod {
		t.Errorf("uninject: status %d\n%s\n%s", status, back, stderr)
	}
	// Every -f counts, in its order.
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		must(t, os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(strings.Replace(pod, "name: a", "name: "+name, 1)), 0o644))
	}
	status, stdout, stderr = call(nil, pod, "inject", "-f", filepath.Join(dir, "b.yaml"), "-f", "-", "-f", dir, "--image", "v1")
	if names := regexp.MustCompile(`name: [ab]}`).FindAllString(stdout, -1); status != 0 || strings.Join(names, "") != "name: b}name: a}name: a}name: b}" || strings.Count(stdout, "---\n") != 3 {
		t.Errorf("status %d\n%s\n%s", status, stdout, stderr)
	}
}

// TestFlagsOfV010: each command takes what it took in v0.1.0, so that a manifest of then
// works with the image of now.
func TestFlagsOfV010(t *testing.T) {
	log := []string{"--log-level=info", "--log-format=text"}
	node := append([]string{"--cni-conf-dir=/conf", "--cni-bin-dir=/bin", "--once", "--listen=:17089"}, log...)
	pod := append([]string{
		"--mode=nat", "--proxy-port=5000", "--proxy-uid=7089", "--admin-port=5001",
		"--include-inbound-ports=80", "--exclude-inbound-ports=22", "--exclude-source-cidrs=192.0.2.0/24",
	}, log...)
	for command, args := range map[string][]string{
		"install":   slices.Concat(node, pod, []string{"--more-plugin-dirs", "--preflight", "--repair", "--cri-socket=/run/cri.sock"}),
		"uninstall": append(node, "--keep-binary"),
		"setup":     append(pod, "--interface=eth0"),
		"inject":    append([]string{"-f=web.yaml", "--mode=nat", "--image=tproxy-cni:v1"}, log...),
	} {
		w := world{args: append([]string{command}, args...), getenv: func(string) string { return "" }, stdout: io.Discard}
		if _, err := parseConfig(command, w); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
}

// TestKeepBinary: the flag of v0.1.0 does what it did, and the log says that it need not
// be given.
func TestKeepBinary(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	n.Installed()
	status, _, stderr := call(nil, "", "uninstall", "--once", "--keep-binary", "--cni-conf-dir", n.ConfDir, "--cni-bin-dir", n.BinDir, "--cni-cache-dir", t.TempDir())
	if status != 0 || !strings.Contains(stderr, "--keep-binary is obsolete") {
		t.Errorf("exit status %d:\n%s", status, stderr)
	}
	must(t, n.CheckProgram())
	n.wantPlugins("flannel", "portmap", "bandwidth")
}
