package inject

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFlags: a flag that somebody added stays with its value; one of those that inject
// writes does not, however it is written.
func TestFlags(t *testing.T) {
	in := inject(t, pod, Options{})
	for args, want := range map[string]string{
		"[--mode=nat]":                      "[--mode=nat]",
		"[--mode, nat]":                     "[--mode=nat]",
		"[-mode=tproxy]":                    "[--mode=nat]",
		"[-mode, tproxy]":                   "[--mode=nat]",
		"[--addr, ':6000']":                 "[--mode=nat]",
		"[-admin=:6001, -x=y]":              "[--mode=nat, -x=y]",
		"[--mode, nat, --log-level, debug]": "[--mode=nat, --log-level, debug]",
		"[--log-level, debug, -mode, tproxy, --log-open=1h]":     "[--mode=nat, --log-level, debug, --log-open=1h]",
		"[--log-level=debug, --mode=nat, -half-closed-timeout=]": "[--mode=nat, --log-level=debug, -half-closed-timeout=]",
		"[--proxy-protocol-from, 10.0.0.0/8, --log-open, 1h]":    "[--mode=nat, --log-open, 1h]",
	} {
		changed := strings.Replace(in, "args: [--mode=nat]", "args: "+args, 1)
		got := inject(t, changed, Options{})
		if diff := cmp.Diff(strings.Replace(in, "args: [--mode=nat]", "args: "+want, 1), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", args, diff)
		}
		if again := inject(t, got, Options{}); again != got {
			t.Errorf("%s: a second time changes:\n%s", args, cmp.Diff(got, again))
		}
	}
}

// TestSharedParts: aliases and merge keys are no fault of a sidecar in which nothing has to
// change, wherever they are.
func TestSharedParts(t *testing.T) {
	in := inject(t, pod, Options{})
	requests := "      requests:\n        cpu: 10m\n        memory: 32Mi\n"
	if !strings.Contains(in, "    "+requests[4:]) {
		t.Fatalf("inject writes other requests:\n%s", in)
	}
	anchor := func(shared string) string { return strings.Replace(in, "kind: Pod\n", "kind: Pod\n"+shared, 1) }
	tail := in[strings.Index(in, "  initContainers:\n")+len("  initContainers:\n") : strings.Index(in, "  containers:\n")]
	for name, tt := range map[string]struct{ in, want string }{
		"alias":      {strings.Replace(anchor("x: &r {cpu: 10m, memory: 32Mi}\n"), requests, "      requests: *r\n", 1), "container tproxy-proxy has to change, and is or has an alias or a merge key"},
		"merge key":  {strings.Replace(anchor("x: &r {cpu: 10m}\n"), requests, "      requests:\n        <<: *r\n        memory: 32Mi\n", 1), "container tproxy-proxy has to change, and is or has an alias or a merge key"},
		"in theirs":  {strings.Replace(anchor("x: &e {name: A, value: b}\n"), "    restartPolicy: Always", "    env:\n    - *e\n    restartPolicy: Always", 1), "container tproxy-proxy has to change, and is or has an alias or a merge key"},
		"the list":   {strings.Replace(anchor("x: &i\n"+tail), "  initContainers:\n"+tail+"  containers", "  initContainers: *i\n  containers", 1), "initContainers is an alias"},
		"everything": {"x: &s\n" + in[strings.Index(in, "spec:\n")+len("spec:\n"):] + in[:strings.Index(in, "spec:\n")] + "spec: *s\n", "spec is an alias"},
	} {
		if diff := cmp.Diff(tt.in, inject(t, tt.in, Options{})); diff != "" || tt.in == in {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
		err := Inject(strings.NewReader(tt.in), &bytes.Buffer{}, Options{Image: "v2"})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestTheirTexts: no text or number that somebody added to a sidecar makes it out of date.
func TestTheirTexts(t *testing.T) {
	in := inject(t, pod, Options{})
	for _, s := range append([]string{"<<", "=", "- a", "a: b", "# a", "\u0085", "\u2028", "\u007f", "\t", "a\n\nb\n", "*a", "&a", "@", "`"}, scalars...) {
		text := strconv.QuoteToASCII(s)
		theirs := "    env: [" + text + ", {" + text + ": x}, 30, 0x1F, 1e3, 1.5, yes, null, [a, {b: 1}]]\n"
		changed := strings.Replace(in, "    restartPolicy: Always", theirs+"    restartPolicy: Always", 1)
		if diff := cmp.Diff(changed, inject(t, changed, Options{})); diff != "" || changed == in {
			t.Errorf("%q (-before +after):\n%s", s, diff)
		}
	}
}
