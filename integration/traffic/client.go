package traffic

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of load.
const (
	Up       = "up"       // streams to the server
	Down     = "down"     // streams from the server
	Exchange = "exchange" // requests and replies; closed loop, or open loop with a Rate
	Connect  = "connect"  // connect, one exchange, close
	Idle     = "idle"     // connect, one exchange, then hold
	Echo     = "echo"     // every byte compared, half-close
	Slow     = "slow"     // writers of a byte at a time, readers of little

	// One connection after the other, as Connect; see turns.
	Served       = "served"        // the server closes first
	HalfClosed   = "half-closed"   // each side in turn sends its FIN first, and the other goes on
	ClientResets = "client-resets" // at each stage of a connection in turn
	ServerResets = "server-resets"
)

// Spec is one run of a client.
type Spec struct {
	Kind     string
	Target   netip.AddrPort
	Conns    int // connections; with Connect and its like, how many at a time
	Duration time.Duration

	// Rate is requests per second over all connections, each to be sent at
	// its own time, whether or not earlier ones were answered. 0: closed loop,
	// each connection sends a request when the last is answered.
	Rate float64 `json:",omitempty"`

	Sources []netip.Addr  // the client's addresses, used in turn
	First   uint64        // which address and port the run begins with: what the last run's Result has as Next
	Grace   time.Duration `json:",omitempty"` // after which no reply is an error; 0: 15 s

	Ports     int  `json:",omitempty"` // how many of the client's ports are used, again and again; 0: all
	ExactPort bool // the application must see the client's port
}

// Result is what a run measured.
type Result struct {
	Seconds float64
	CPU     float64 // seconds that all CPUs of the machine together were busy
	Bytes   int64   // Up, Down
	Conns   int64   // connections that were opened
	Count   int64   // requests or connections that were answered
	Peers   int64   // replies, in each of which the peer that the application saw was compared
	Others  int64   // of those, in how many it saw another port of the client's address
	Latency Latency // of those counted
	Next    uint64
}

// grace is the time after the duration before a run fails, unless the Spec has another.
const grace = 15 * time.Second

// Run is a client. With Idle, hold is called when all connections are open; they are
// closed when it returns. Any wrong byte, address or end of stream is an error.
func Run(s Spec, hold func() error) (Result, error) {
	if err := sharpTimer(); err != nil {
		return Result{}, err
	}
	l, err := newLoop()
	if err != nil {
		return Result{}, err
	}
	s.Grace = cmp.Or(s.Grace, grace)
	c := &client{Spec: s, loop: l, next: s.First, conns: map[int]*conn{}}
	run := map[string]func() error{
		Up: c.upload, Down: c.download, Exchange: c.exchange, Echo: c.echo, Slow: c.slow,
		Idle: func() error { return c.idle(hold) },
	}[s.Kind]
	if turns := turnsOf[s.Kind]; turns != nil {
		run = func() error { return c.takeTurns(turns) }
	}
	if run == nil {
		return Result{}, fmt.Errorf("unknown kind of load %q", s.Kind)
	}
	if err := run(); err != nil {
		return Result{}, fmt.Errorf("%s: %w", s.Kind, err)
	}
	c.result.Next = c.next
	c.result.Latency = percentiles(c.latencies)
	return c.result, nil
}

type client struct {
	Spec
	loop   *loop
	conns  map[int]*conn
	next   uint64
	nonces uint64

	began, end, limit time.Time
	cpu               float64 // at began
	latencies         []time.Duration
	scratch           []byte
	mu                sync.Mutex // for next and result where connections are goroutines
	result            Result
}

// conn is one connection of the client.
type conn struct {
	fd      int
	local   netip.AddrPort
	up      bool // connected
	request message
	reply   message
	got     int       // of reply
	due     time.Time // when the request was, or should have been, sent
	check   checker
	send    sender
	turn    turn
	rest    rest // of an echo
}

const (
	firstPort = 33000
	portCount = 28000
)

// source returns the next pair of the client's address and port. A pair comes again
// only after all others, since the number of ports and the prime number of addresses
// have no common divisor, and later than TIME_WAIT ends. The pods under test dial
// from other ports.
func (c *client) source() netip.AddrPort {
	i := c.next
	c.next++
	ports := uint64(portCount)
	if c.Ports > 0 {
		ports = uint64(c.Ports)
	}
	return netip.AddrPortFrom(c.Sources[i%uint64(len(c.Sources))], uint16(firstPort+i%ports))
}

// dial starts to connect. A port that is used again may still be in the last word of
// its last connection (LAST_ACK): then the next one is taken.
func (c *client) dial() (*conn, error) {
	var n *conn
	for tries := 1; ; tries++ {
		n = &conn{local: c.source(), due: time.Now()}
		var err error
		if n.fd, err = connect(n.local, c.Target); err == nil {
			break
		}
		if c.Ports == 0 || tries == c.Ports || !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	c.conns[n.fd] = n
	return n, c.loop.add(n.fd, unix.EPOLLOUT)
}

func (c *client) close(n *conn) {
	delete(c.conns, n.fd)
	closeFD(n.fd)
}

// established notes that the connection is up and what to wait for next.
func (c *client) established(n *conn, events uint32) error {
	if err := connected(n.fd); err != nil {
		return err
	}
	n.up = true
	c.result.Conns++
	return c.loop.change(n.fd, events)
}

// start sends the connection's first message when it is connected.
func (c *client) start(n *conn, kind byte, events uint32) error {
	if err := c.established(n, events); err != nil {
		return err
	}
	return c.ask(n, kind)
}

func (c *client) ask(n *conn, kind byte) error {
	c.nonces++
	n.request = newMessage(kind, c.nonces)
	n.got = 0
	return writeMessage(n.fd, &n.request)
}

// answer reads and reports whether the whole reply is there; a wrong one is an error.
func (c *client) answer(n *conn, received int64) (bool, error) {
	k, err := read(n.fd, n.reply[n.got:])
	switch {
	case err == unix.EAGAIN:
		return false, nil
	case err != nil:
		return false, err
	case k == 0:
		return false, fmt.Errorf("stream ended before the reply")
	}
	if n.got += k; n.got < messageSize {
		return false, nil
	}
	return true, c.compare(&n.reply, &n.request, n.local, received)
}

// compare checks a whole reply, and counts it.
func (c *client) compare(reply, request *message, local netip.AddrPort, received int64) error {
	if err := checkReply(reply, request, local, c.ExactPort, received); err != nil {
		return err
	}
	c.result.Peers++
	if reply.peer().Port() != local.Port() {
		c.result.Others++
	}
	return nil
}

// startClock starts the measurement.
func (c *client) startClock() {
	c.cpu = busy()
	c.began = time.Now()
	c.end = c.began.Add(c.Duration)
	c.limit = c.end.Add(c.Grace)
}

func (c *client) stopClock() {
	c.result.Seconds = time.Since(c.began).Seconds()
	c.result.CPU = busy() - c.cpu
}

// step waits until next at most and lets handle work on what is ready.
func (c *client) step(next time.Time, handle func(*conn, uint32) error) error {
	events, err := c.loop.wait(max(time.Until(next), 0))
	if err != nil {
		return err
	}
	for _, e := range events {
		if n := c.conns[int(e.Fd)]; n != nil {
			if err := handle(n, e.Events); err != nil {
				return fmt.Errorf("from %s: %w", n.local, err)
			}
		}
	}
	if time.Now().After(c.limit) {
		return fmt.Errorf("%d connections hang: no reply for %v", len(c.conns), c.Grace)
	}
	return nil
}

// open makes all connections, each with one exchange.
func (c *client) open() error {
	c.limit = time.Now().Add(c.Grace)
	for begun, ready := 0, 0; ready < c.Conns; {
		for ; begun < c.Conns && begun-ready < batch; begun++ {
			if _, err := c.dial(); err != nil {
				return err
			}
		}
		err := c.step(c.limit, func(n *conn, _ uint32) error {
			if !n.up {
				return c.start(n, kindExchange, unix.EPOLLIN)
			}
			done, err := c.answer(n, 0)
			if done {
				ready++
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
