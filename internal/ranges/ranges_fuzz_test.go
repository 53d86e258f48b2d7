package ranges

import (
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// FuzzRanges: a text is a range that can be programmed, or a problem that can be shown.
func FuzzRanges(f *testing.F) {
	for _, s := range []string{"80", "8000-8099", " 1 - 65535 ", "0", "+1", "2-1", "10.0.0.0/8", "::/0", "::ffff:10.0.0.0/104", "fe80::%eth0/10", "10.0.0.1/8", "\x1b[2J"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ports, problem := ParsePorts(s)
		check(t, s, problem)
		if problem == "" && (ports.Low == 0 || ports.Low > ports.High) {
			t.Errorf("%q is %+v", s, ports)
		}
		cidr, problem := ParseCIDR(s)
		check(t, s, problem)
		if problem == "" && (!cidr.IsValid() || cidr != cidr.Masked() || cidr.Addr().Is4In6() || cidr.Addr().Zone() != "") {
			t.Errorf("%q is %v", s, cidr)
		}
		if values, problems := Parse(strings.Split(s, ","), ParsePorts); (len(values) > 0) == (len(problems) > 0) {
			t.Errorf("%q: %v, %q", s, values, problems)
		}
	})
}

func check(t *testing.T, s, problem string) {
	t.Helper()
	if printable.Line(problem) != problem {
		t.Errorf("%q: not printable: %q", s, problem)
	}
}
