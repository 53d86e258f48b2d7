package main

import (
	"strings"
	"testing"
)

// TestMaxConfNum: what the flag says, or else the runtime, decides whether a list beside
// a single plugin's configuration is a network of its own.
func TestMaxConfNum(t *testing.T) {
	for _, tc := range []struct {
		info  string
		args  []string
		waits bool
	}{
		{`{"PluginMaxConfNum":0,"PluginConfDir":"/etc/cni/net.d"}`, nil, true},
		{`{"PluginMaxConfNum":2}`, nil, true},
		{`{"PluginMaxConfNum":1}`, nil, false},
		{"", nil, false}, // CRI-O
		{`{"PluginMaxConfNum":1}`, []string{"--max-conf-num=0"}, true},
		{`{"PluginMaxConfNum":0}`, []string{"--max-conf-num=1"}, false},
	} {
		n := newTestNode(t, "10-bridge.conf")
		runtime := &fakeRuntime{info: map[string]string{"cniconfig": tc.info}}
		args := append([]string{"--once", "--cri-socket", serveRuntime(t, runtime)}, tc.args...)
		out, err := n.command("install", args...).CombinedOutput()
		if (err != nil) != tc.waits || tc.waits && !strings.Contains(string(out), "10-bridge.conf is a single plugin's, and containerd's max_conf_num is not 1") {
			t.Errorf("%s %q: %v, to wait is %t\n%s", tc.info, tc.args, err, tc.waits, out)
		}
	}
	status, _, stderr := call(nil, "", "install", "--max-conf-num", "all")
	if status != 2 || !strings.Contains(stderr, `--max-conf-num "all": want a number`) {
		t.Errorf("status %d, %s", status, stderr)
	}
}
