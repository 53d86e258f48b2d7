package traffic

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
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
)

// Spec is one run of a client.
type Spec struct {
	Kind     string
	Target   netip.AddrPort
	Conns    int // connections; with Connect, how many at a time
	Duration time.Duration

	// Rate is requests per second over all connections, each to be sent at
	// its own time, whether or not earlier ones were answered. 0: closed loop,
	// each connection sends a request when the last is answered.
	Rate float64 `json:",omitempty"`

	Sources   []netip.Addr // the client's addresses, used in turn
	First     uint64       // which address and port the run begins with: what the last run's Result has as Next
	ExactPort bool         // the application must see the client's port
}

// Result is what a run measured.
type Result struct {
	Seconds float64
	CPU     float64 // seconds that all CPUs of the machine together were busy
	Bytes   int64   // Up, Down
	Count   int64   // requests or connections that were answered
	Latency Latency // of those
	Next    uint64
}

// Latency is in microseconds.
type Latency struct{ P50, P90, P99, P999, Max float64 }

// grace is the time after the duration before a run fails.
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
	c := &client{Spec: s, loop: l, next: s.First, conns: map[int]*conn{}}
	run := map[string]func() error{
		Up: c.upload, Down: c.download, Exchange: c.exchange, Connect: c.connects, Echo: c.echo,
		Idle: func() error { return c.idle(hold) },
	}[s.Kind]
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
	return netip.AddrPortFrom(c.Sources[i%uint64(len(c.Sources))], uint16(firstPort+i%portCount))
}

// dial starts to connect.
func (c *client) dial() (*conn, error) {
	n := &conn{local: c.source(), due: time.Now()}
	var err error
	if n.fd, err = connect(n.local, c.Target); err != nil {
		return nil, err
	}
	c.conns[n.fd] = n
	return n, c.loop.add(n.fd, unix.EPOLLOUT)
}

func (c *client) close(n *conn) {
	delete(c.conns, n.fd)
	closeFD(n.fd)
}

// start sends the connection's first message when it is connected.
func (c *client) start(n *conn, kind byte, events uint32) error {
	if err := connected(n.fd); err != nil {
		return err
	}
	n.up = true
	if err := c.loop.change(n.fd, events); err != nil {
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
	return true, checkReply(&n.reply, &n.request, n.local, c.ExactPort, received)
}

// startClock starts the measurement.
func (c *client) startClock() {
	c.cpu = busy()
	c.began = time.Now()
	c.end = c.began.Add(c.Duration)
	c.limit = c.end.Add(grace)
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
		return fmt.Errorf("%d connections hang: no reply for %v", len(c.conns), grace)
	}
	return nil
}

// open makes all connections, each with one exchange.
func (c *client) open() error {
	c.limit = time.Now().Add(grace)
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

// busy returns how many seconds the machine's CPUs have been busy. It is derived from
// their idle time, which the kernel measures; busy time it only samples.
func busy() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var cpus, idle float64
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "cpu") || len(f) < 9 {
			break
		}
		if f[0] != "cpu" {
			cpus++
			continue
		}
		for _, i := range []int{4, 5, 8} { // idle, iowait, steal
			ticks, _ := strconv.ParseFloat(f[i], 64)
			idle += ticks / 100
		}
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return cpus*float64(now.Nano())/1e9 - idle
}

func percentiles(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e3
	}
	return Latency{at(.5), at(.9), at(.99), at(.999), at(1)}
}
