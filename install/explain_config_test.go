package main

import (
	"strings"
	"testing"
)

// TestExplainUsage: a wrong command line is told, with status 2; one pod or one
// namespace, which needs a mode.
func TestExplainUsage(t *testing.T) {
	for line, want := range map[string]string{
		"":                                    "want either NAMESPACE/POD or --netns PATH",
		"demo":                                `argument "demo": want NAMESPACE/POD`,
		"demo/a/b":                            "want NAMESPACE/POD",
		"demo/a demo/b":                       `unexpected argument "demo/b"`,
		"demo/a --netns /run/netns/x":         "want either",
		"--netns /run/netns/x":                "--netns needs --mode nat or tproxy",
		"--netns /run/netns/x --mode none":    "--netns needs --mode nat or tproxy",
		"--netns x --mode nat":                "want an absolute path",
		"demo/a --mode nat":                   "the settings of a pod are its annotations: --mode is for --netns",
		"demo/a --client x":                   "want an IP address",
		"--json demo/a --watch":               "--watch has no --json",
		"demo/a --port 0":                     "want a number from 1 to 65535",
		"--netns /run/netns/x --mode nat -x":  "flag provided but not defined",
		"demo/a --netns= --cri-socket run/it": "want an absolute path",
	} {
		var out, errs strings.Builder
		code := run(world{args: append([]string{"explain"}, strings.Fields(line)...), getenv: func(string) string { return "" }, stdout: &out, stderr: &errs})
		if code != 2 || !strings.Contains(errs.String(), want) || out.String() != "" {
			t.Errorf("%q: %d %s%s", line, code, out.String(), errs.String())
		}
	}
	// What the installer's environment says is no pod's setting.
	env := func(name string) string {
		return map[string]string{"TPROXY_MODE": "nat", "TPROXY_CRI_SOCKET": "/nowhere/cri.sock"}[name]
	}
	var out, errs strings.Builder
	code := run(world{args: []string{"explain", "demo/a"}, getenv: env, stdout: &out, stderr: &errs})
	if code != 3 || !strings.Contains(errs.String(), "/nowhere/cri.sock: no such file") {
		t.Errorf("%d %s", code, errs.String())
	}
}
