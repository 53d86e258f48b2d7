package test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// given are values of the chart's settings, as YAML and --set make them. A list is the
// plugin's own text, with commas.
var given = map[string][]any{
	"mode":              {"nat", "tproxy", "none", " nat ", "NAT", "", "on", 1, true, []any{"nat"}},
	"packet-guard":      {"required", "best-effort", " required ", "Required", "none", "", 1, true},
	"exempt-namespaces": {"", " ", "kube-*", "kube-*, demo", "a,b", "a,", ",a", "Demo", "*", "a*b", "-a", "a-", "a-*", "a.b", 7, strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 63) + "*", true},
	"proxy-port": {
		1, 80, 65535, 0, 65536, -1, 80.5, "5000", " 5000\t", "05000", "\u00a05000\u2003", "\v5000\u0085", "", " ", "http", "+80", "0x50", "8_0", "80,81", "80-81", true, []any{80},
	},
	"admin-port": {1, 65535, 0, 65536, "5001", "", "5001x"},
	"proxy-uid":  {1, 1000, 2147483648, 4294967294, 4294967295, 4294967296, 0, -1, "7089", " 7089 ", "007089", "08", "root", "", "99999999999", "18446744073709551616", 1.5},
	"include-inbound-ports": {
		80, 65535, 0, 65536, -80, "", " ", "80", "080", "22,80", "22, 80", " 22 ,\t80 ", "8000-8099", "8000 - 8099", "80,8000-8099", "22,", ",22", "22,,80", "80-79", "80-80",
		"1-65535", "0-5", "1-65536", "80-", "-80", "80-81-82", "http", "80;81", "80 81", true, 80.5, "\u200380", "80\n81", "80,\n81\n",
	},
	"exclude-inbound-ports": {22, "", "22, 80", "22-", "9999999999999999999999"},
	"exclude-source-cidrs": {
		"", "192.0.2.0/24", "192.0.2.0/24,2001:db8::/32", " 192.0.2.0/24 , 2001:db8::/32 ", "0.0.0.0/0,::/0", "2001:DB8::/32", "192.0.2.0/24,", "192.0.2.0", "2001:db8::1", "192.0.2.0/33",
		"192.0.2.0/08", "2001:db8::/129", "fe80::%eth0/64", "::ffff:192.0.2.0/120", "192.0.2.1/24", "2001:db8::1/32", "256.0.0.0/8", "1:2:3/64", "any", "192.0.2.0/24 198.51.100.0/24", 10, true,
	},
}

// late are those that only the installer refuses, when it starts: a schema and a template
// have no addresses to compute with.
var late = []string{"192.0.2.1/24", "2001:db8::1/32", "256.0.0.0/8", "1:2:3/64", "::ffff:192.0.2.0/120"}

// TestChartSettings: the chart takes what the plugin takes and refuses what it refuses, and
// what it makes of a value is what the plugin takes.
func TestChartSettings(t *testing.T) {
	for _, s := range settings.All() {
		if len(given[s.Name]) == 0 {
			t.Errorf("no values of %s", s.Name)
		}
	}
	for name, values := range given {
		for _, v := range values {
			text, isText := v.(string)
			switch n := v.(type) {
			case int:
				text, isText = fmt.Sprint(n), true
			}
			want := isText && accepted(name, text)
			out, err := template(map[string]any{"settings": map[string]any{name: v}})
			if got := err == nil; got != want && !(got && slices.Contains(late, text)) {
				t.Errorf("%s %#v: the chart takes it: %t, the plugin: %t; %v", name, v, got, want, err)
			}
			if err == nil && want {
				checkFlag(t, out, name, text)
			}
		}
	}
	// Lists are for the chart only; their elements are joined.
	for want, list := range map[string][]any{"22,80-81": {22, "80-81"}, "80": {"80"}, "": {}, "22,80, 81": {"22,80", " 81"}} {
		out, err := template(map[string]any{"settings": map[string]any{"include-inbound-ports": list}})
		if err != nil {
			t.Errorf("%v: %v", list, err)
			continue
		}
		checkFlag(t, out, "include-inbound-ports", want)
	}
	for want, list := range map[string][]any{"kube-*,calico-system": {"kube-*", "calico-system"}, "7": {7}, "": {}} {
		out, err := template(map[string]any{"settings": map[string]any{"exempt-namespaces": list}})
		if err != nil {
			t.Errorf("%v: %v", list, err)
			continue
		}
		checkFlag(t, out, "exempt-namespaces", want)
	}
	for name, list := range map[string][]any{"exempt-namespaces": {"kube-*", "*"}, "include-inbound-ports": {22, 0}, "exclude-source-cidrs": {"192.0.2.0/24", "any"}, "exclude-inbound-ports": {[]any{22}}} {
		if _, err := template(map[string]any{"settings": map[string]any{name: list}}); err == nil {
			t.Errorf("%s %v: accepted", name, list)
		}
	}
}

// accepted reports whether the plugin takes a text, from an annotation and as the flag of
// which the installer makes the conflist entry. Exempt namespaces have no annotation.
func accepted(name, text string) bool {
	if name == settings.ExemptNamespaces {
		_, err := settings.NewEntry(map[string]string{name: text})
		return err == nil
	}
	s := settings.New()
	s.Annotations(map[string]string{"tproxy-cni.io/" + name: text})
	_, err := s.Config("eth0", nil)
	_, entry := settings.NewEntry(map[string]string{name: text})
	if (err == nil) != (entry == nil) {
		panic(fmt.Sprint(name, text, err, entry))
	}
	return err == nil
}

// checkFlag: the installer gets the text, without space around it, as one argument.
func checkFlag(t *testing.T, rendered, name, text string) {
	t.Helper()
	want := "--" + name + "=" + strings.TrimSpace(text)
	if args := decodeArgs(t, rendered); !slices.Contains(args, want) {
		t.Errorf("no argument %q in %q", want, args)
	}
}

// decodeArgs are the installer's arguments.
func decodeArgs(t *testing.T, rendered string) []string {
	t.Helper()
	return only[*appsv1.DaemonSet](t, decode(t, []byte(rendered))).Spec.Template.Spec.Containers[0].Args
}
