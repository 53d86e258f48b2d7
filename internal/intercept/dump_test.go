package intercept

import (
	"testing"

	mnl "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestInterruptedDump: a list that changed while the kernel wrote it is asked for again,
// and not for ever.
func TestInterruptedDump(t *testing.T) {
	for interruptions, want := range map[int]bool{0: true, 1: true, mostTries - 1: true, mostTries: false} {
		asked := 0
		conn := nltest.Dial(func(req []mnl.Message) ([]mnl.Message, error) {
			m := mnl.Message{Header: mnl.Header{Type: unix.RTM_NEWRULE, Sequence: req[0].Header.Sequence, PID: req[0].Header.PID}}
			if asked++; asked <= interruptions {
				m.Header.Flags = mnl.DumpInterrupted
			}
			return []mnl.Message{m}, nil
		})
		replies, err := dumpWhole(conn, unix.RTM_GETRULE, make([]byte, ruleHeader))
		if got := err == nil && len(replies) == 1; got != want {
			t.Errorf("%d interruptions: %d replies, %v", interruptions, len(replies), err)
		}
		asked = 0
		list, err := listWhole(func() ([]int, error) {
			if asked++; asked <= interruptions {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, nil
		})
		if got := err == nil && len(list) == 2; got != want || !got && !Transient(err) {
			t.Errorf("%d interruptions: %v, %v", interruptions, list, err)
		}
	}
}
