package dial

import (
	"net/netip"
	"testing"
)

// TestTakeOver: the ports of an attempt that is taken over are taken, until it ends.
func TestTakeOver(t *testing.T) {
	pr := Pair{Client: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddrPort("192.0.2.2:80")}
	var old ports
	var a Attempt
	a.hold(&old, pr, 2000)
	if _, err := a.take(&old, pr); err != nil {
		t.Fatal(err)
	}
	a.plain, a.named, a.tries, a.retold = true, true, 3, true

	d := New("tproxy", 5000, NewAddrs())
	b := d.TakeOver(a.HandOver(), pr)
	if a != b {
		t.Errorf("took over %+v, want %+v", b, a)
	}
	for _, port := range []uint16{a.held, a.leased} {
		if o, _ := d.free(pr.key(), offset(port)); o == offset(port) {
			t.Errorf("port %d is free", port)
		}
	}
	d.End(&b, pr)
	if n := len(d.one) + len(d.more); n != 0 {
		t.Errorf("%d pairs have ports at the end", n)
	}
	// A port that this program would not choose is not its own to lend.
	h := a.HandOver()
	h.Leased, h.Held = 1, 65535
	if b = d.TakeOver(h, pr); b.leased != 0 || b.held != 0 {
		t.Errorf("took over %+v", b)
	}
}
