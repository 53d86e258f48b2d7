package lab

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// told is a TB that keeps how a test ended.
type told struct {
	TB
	how string
}

func (t *told) Helper()                        {}
func (t *told) Fatalf(format string, a ...any) { t.end("failed: "+format, a...) }
func (t *told) Skipf(format string, a ...any)  { t.end("skipped: "+format, a...) }

func (t *told) end(format string, a ...any) {
	t.how = fmt.Sprintf(format, a...)
	panic(t)
}

// TestNeedKernel: a test without a subject says so, and where that is not known to be it
// fails.
func TestNeedKernel(t *testing.T) {
	for name, tt := range map[string]struct {
		ci, mayLack string
		probe       error
		want        string // the beginning
	}{
		"has it":               {ci: "1", want: ""},
		"lacks it":             {probe: errors.New("no"), want: "skipped: this kernel lacks a part: no"},
		"lacks it in CI":       {ci: "1", mayLack: "another part,a", probe: errors.New("no"), want: "failed: this kernel lacks a part: no; name it in LAB_MAY_LACK"},
		"known to lack it":     {ci: "1", mayLack: "another,a part", probe: errors.New("no"), want: "skipped: this kernel lacks a part: no"},
		"known, and yet there": {ci: "1", mayLack: "a part", want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", tt.ci)
			t.Setenv(MayLack, tt.mayLack)
			tb := &told{TB: t}
			defer delete(probed.missing, "a part")
			func() {
				defer func() { _ = recover() }()
				NeedKernel(tb, Feature{"a part", func(TB) error { return tt.probe }})
			}()
			if !strings.HasPrefix(tb.how, tt.want) || (tb.how == "") != (tt.want == "") {
				t.Errorf("%q, want %q", tb.how, tt.want)
			}
		})
	}
}

// TestProbes: each feature is there where CI runs, or known to be missing; and what no
// kernel has is missing.
func TestProbes(t *testing.T) {
	Need(t, "nft", "socat")
	for _, f := range []Feature{UDPLite, MPTCP, EgressHook, TableOwner, RawMark} {
		t.Run(f.Name, func(t *testing.T) { NeedKernel(t, f) })
	}
	for name, probe := range map[string]func(TB) error{
		"socket": socket(1, 255), // a stream of raw IP
		"nft":    nft("add table arp probe; add chain arp probe c { type filter hook forward priority 0; }"),
	} {
		if err := probe(t); err == nil {
			t.Errorf("%s finds what is not there", name)
		}
	}
}
