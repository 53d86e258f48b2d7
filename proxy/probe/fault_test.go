package probe

import (
	"errors"
	"testing"
)

// TestJoined: the reason is the first that says something of the pod, and the text has
// what was found for both families.
func TestJoined(t *testing.T) {
	short, other := errors.New("too many open files"), errors.New("no memory")
	rules, sysctl := fault(Rules, "no table"), fault(Sysctl, "it is 0")
	for _, tt := range []struct {
		four, six error
		reason    Reason // "": no fault
		text      string
	}{
		{nil, nil, "", ""},
		{rules, nil, Rules, "IPv4: no table"},
		{nil, sysctl, Sysctl, "IPv6: it is 0"},
		{rules, sysctl, Rules, "IPv4: no table; IPv6: it is 0"},
		{rules, rules, Rules, "IPv4 and IPv6: no table"},
		{short, nil, Failed, "IPv4: too many open files"},
		{short, other, Failed, "IPv4: too many open files; IPv6: no memory"},
		{short, rules, Rules, "IPv4: too many open files; IPv6: no table"},
		{rules, short, Rules, "IPv4: no table; IPv6: too many open files"},
	} {
		f := joined([]error{tt.four, tt.six})
		if f == nil {
			f = &Fault{}
		}
		if f.Reason != tt.reason || f.Text != tt.text || f.Cure != cures[tt.reason] {
			t.Errorf("%v and %v: %+v, want %s", tt.four, tt.six, f, tt.reason)
		}
	}
}
