package traffic

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// nextPort is another one for each application: they live as long as the process.
var nextPort atomic.Int32

// serveHere starts an application and returns how it will end.
func serveHere(t *testing.T) (target netip.AddrPort, ended <-chan error) {
	t.Helper()
	port := 18080 + int(nextPort.Add(1))
	ready, end := make(chan struct{}), make(chan error, 1)
	go func() { end <- Serve(port, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-end:
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), end
}

// TestRun runs every kind of load against the application, without a network
// between them.
func TestRun(t *testing.T) {
	target, _ := serveHere(t)
	first := uint64(0)
	for _, s := range []Spec{
		{Kind: Up, Conns: 3},
		{Kind: Down, Conns: 3},
		{Kind: Exchange, Conns: 5},
		{Kind: Exchange, Conns: 5, Rate: 2000},
		{Kind: Connect, Conns: 4},
		{Kind: Idle, Conns: 200},
		{Kind: Echo, Conns: 4},
		{Kind: Served, Conns: 4, Ports: 50},
		{Kind: HalfClosed, Conns: 4},
		{Kind: ClientResets, Conns: 5},
		{Kind: ServerResets, Conns: 4},
		{Kind: Slow, Conns: 4},
	} {
		s.Target, s.Duration, s.ExactPort, s.First = target, 50*time.Millisecond, true, first
		s.Sources = []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
		r, err := Run(s, func() error { return nil })
		if err != nil {
			t.Errorf("%s: %v", s.Kind, err)
		}
		if r.Bytes+r.Count == 0 || r.Conns < int64(s.Conns) {
			t.Errorf("%s: nothing done: %+v", s.Kind, r)
		}
		if s.Rate > 0 && r.Count != int64(s.Rate*s.Duration.Seconds()) {
			t.Errorf("open loop: %d requests, want %v in %v", r.Count, s.Rate, s.Duration)
		}
		first = r.Next
	}
}

// TestChecker: bytes that are lost, doubled or swapped at any size do not pass.
func TestChecker(t *testing.T) {
	var s sender
	var stream []byte
	for !s.done() {
		if len(stream) > blockSize {
			s.stop()
		}
		head, body := s.next()
		stream = append(append(stream, head...), body...)
		s.off = int64(len(stream))
	}
	check := func(pieces ...[]byte) error {
		var c checker
		for _, p := range pieces {
			if err := c.take(p); err != nil {
				return err
			}
		}
		return c.complete()
	}
	for _, cut := range []int{1, 7, 8, 100, blockSize, blockSize + 3} {
		a, b := stream[:cut], stream[cut:]
		if err := check(a, b); err != nil {
			t.Errorf("cut at %d: %v", cut, err)
		}
		for name, pieces := range map[string][][]byte{
			"lost": {a, b[1:]}, "doubled": {a, a, b}, "swapped": {b, a}, "short": {stream[:len(stream)-1]}, "block lost": {stream[blockSize:]},
		} {
			if check(pieces...) == nil {
				t.Errorf("cut at %d: %s passes", cut, name)
			}
		}
	}
}

func TestCheckReply(t *testing.T) {
	local := netip.MustParseAddrPort("192.0.2.1:4000")
	request := newMessage(kindExchange, 7)
	for _, tc := range []struct {
		peer     string
		exact    bool
		received int64
		ok       bool
	}{
		{"192.0.2.1:4000", true, 0, true},
		{"[::ffff:192.0.2.1]:4000", true, 0, true},
		{"192.0.2.1:4001", false, 0, true},
		{"192.0.2.1:4001", true, 0, false},
		{"192.0.2.2:4000", false, 0, false},
		{"192.0.2.1:4000", true, 1, false},
	} {
		reply := newReply(&request, netip.MustParseAddrPort(tc.peer), tc.received)
		if err := checkReply(&reply, &request, local, tc.exact, 0); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
