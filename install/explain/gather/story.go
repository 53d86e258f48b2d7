package gather

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	// patience is how long the pod may take for the handshakes of one connection:
	// a lost SYN is sent again after a second.
	patience = 2500 * time.Millisecond

	// rest is how long the events of a packet take that have not been read yet.
	rest = 100 * time.Millisecond

	// perSecond is how many packets of each kind are followed in a second. An event
	// is some 200 bytes, and a connection makes about 40 of them.
	perSecond = 20
)

// story follows one connection: one of this command's own or, where a client is asked
// for, the first of that one. It is not waited for where something is wrong anyway.
func (g gatherer) story(ctx context.Context, o Options) error {
	target, ok := g.target()
	own, err := ownAddrs()
	if err != nil {
		return err
	}
	switch synthetic := !g.Client.IsValid() || slices.Contains(own, g.Client); {
	case !ok:
		g.NoStory = "no application listens where a client could reach it"
	case synthetic && !o.Connect:
		g.NoStory = "this command was told not to connect, and no client is asked for"
	case synthetic:
		return g.connect(ctx, target)
	default:
		if v, _ := explain.Judge(*g.Facts); v.State != explain.Fault && v.Code != "exempt_port" && v.Code != "exempt_client" {
			return g.await(ctx, o.Wait)
		}
		g.NoStory = "something is wrong anyway"
	}
	return nil
}

// target is where to connect to.
func (g gatherer) target() (netip.AddrPort, bool) {
	for _, a := range g.Addrs {
		if g.Port != 0 && (!g.Client.IsValid() || a.Is4() == g.Client.Is4()) && g.Serves(a, g.Port) {
			return netip.AddrPortFrom(a, g.Port), true
		}
	}
	return netip.AddrPort{}, false
}

func ownAddrs() (list []netip.Addr, err error) {
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if p, perr := netip.ParsePrefix(a.String()); perr == nil {
			list = append(list, p.Addr().Unmap())
		}
	}
	return list, err
}

// connect makes a connection from this node, follows its handshakes and closes it.
func (g gatherer) connect(ctx context.Context, to netip.AddrPort) error {
	from, err := route(to)
	if err != nil {
		g.NoStory = err.Error()
		return nil
	}
	t, err := g.arm(from, to.Port())
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	bound := make(chan netip.AddrPort, 1)
	done := make(chan struct{})
	ended := make(chan struct{})
	defer func() { cancel(); close(done); <-ended }()
	go func() {
		defer close(ended)
		// Open until the story is whole: the sidecar dials after it has accepted.
		if conn, err := dial(ctx, from, to, bound); err == nil {
			<-done
			conn.Close()
		}
	}()
	var client netip.AddrPort
	select {
	case client = <-bound:
	case <-ctx.Done():
		return ctx.Err()
	}
	s, err := g.follow(ctx, t, func(s *explain.Story) bool { return s.Client == client })
	if s == nil {
		s = &explain.Story{Client: client, Server: to}
	}
	s.Synthetic = true
	g.Story = s
	return err
}

// dial connects from a port that it tells before, so that the packets can be told from
// those of a kubelet's probe.
func dial(ctx context.Context, from netip.Addr, to netip.AddrPort, bound chan<- netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			if err = unix.Bind(int(fd), sockaddr(from)); err != nil {
				return
			}
			var name unix.Sockaddr
			if name, err = unix.Getsockname(int(fd)); err == nil {
				bound <- netip.AddrPortFrom(from, portOf(name))
			}
		})
		return errors.Join(cerr, err)
	}}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", to.String())
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

func portOf(name unix.Sockaddr) uint16 {
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	}
	return 0
}

// route is the address from which this node reaches another: a UDP socket knows it
// without sending anything.
func route(to netip.AddrPort) (netip.Addr, error) {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("this node has no route to the pod: %w", err)
	}
	defer conn.Close()
	a, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return a.Addr().Unmap(), err
}

func (g gatherer) arm(client netip.Addr, port uint16) (*trace.Tracer, error) {
	return trace.Arm(g.pod, trace.Wanted{
		Interface: g.Config.Interface, Client: client, Port: port, PerSecond: perSecond, UID: g.Config.ProxyUID, Mark: contract.Mark,
	})
}

// await follows the client's next connection.
func (g gatherer) await(ctx context.Context, wait time.Duration) error {
	t, err := g.arm(g.Client, g.asked)
	if err != nil {
		return err
	}
	defer t.Close()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	g.Story, err = g.follow(ctx, t, func(*explain.Story) bool { return true })
	if g.Story == nil {
		g.NoStory = fmt.Sprintf("no connection of %s came to the pod within %v", g.Client, wait)
		return err
	}
	g.Port = g.Story.Server.Port()
	return err
}

// follow returns the first story that is wanted, when it is whole or patience or ctx
// ends; nil if none has begun by then.
func (g gatherer) follow(ctx context.Context, t *trace.Tracer, wanted func(*explain.Story) bool) (*explain.Story, error) {
	var packets []*trace.Packet
	var story *explain.Story
	whole := false
	for {
		events, err := t.Next(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return story, nil
		}
		if err != nil {
			return story, err
		}
		packets = trace.Collect(packets, events)
		begun := story != nil
		stories := explain.Split(packets)
		if i := slices.IndexFunc(stories, wanted); i >= 0 {
			story = stories[i]
		}
		switch {
		case story == nil:
		case story.Whole() && !whole: // but for the rest of its last packet
			whole = true
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, rest)
			defer cancel()
		case !begun && !whole:
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, patience)
			defer cancel()
		}
	}
}
