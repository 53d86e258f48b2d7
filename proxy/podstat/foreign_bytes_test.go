package podstat

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// FuzzRule shows a rule of policy routing, which any process of the pod with NET_ADMIN may
// have made.
func FuzzRule(f *testing.F) {
	header := []byte{unix.AF_INET, 8, 0, 0, 254, 0, 0, unix.FR_ACT_TO_TBL, 2, 0, 0, 0}
	f.Add(header)
	f.Add(append(header[:12:12], attribute(unix.FRA_IIFNAME, []byte("eth0\x00"))...))
	f.Add(append(header[:12:12], attribute(unix.FRA_OIFNAME, []byte("\x1b[2J\n\x00"))...))
	f.Add(append(header[:12:12], append(attribute(unix.FRA_SRC, []byte{10, 0, 0, 1}), attribute(unix.FRA_UID_RANGE, make([]byte, 8))...)...))
	f.Add(append(header[:12:12], 3, 0, 255, 255, 200, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < unix.SizeofRtMsg {
			return
		}
		text := ruleText(data, attributes(data[unix.SizeofRtMsg:]))
		if len(text) <= printable.MaxLine && printable.Line(text) != text {
			t.Errorf("not printable: %q", text)
		}
	})
}
