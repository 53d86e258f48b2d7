package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// This file finds out, without any privilege, whether the plugin has prepared
// the pod. A pod that slipped past the plugin (it began before the plugin was in
// the chain) must not look healthy while its connections go unintercepted.
//
// Reading the rules needs NET_ADMIN, so the check does what a relayed connection
// does: it connects within the pod from an address that is nobody's. That works
// only with the routing, the sysctls and the nftables table in place and with
// the uid that the rules know. The table is made in one transaction, so where
// its guard works its interception is there too, except that nothing inside of
// the pod can see the port and the filters it was given.

const (
	// A spoofed connection within the pod takes microseconds or never comes
	// about.
	probeTimeout = time.Second

	minRecheck = 100 * time.Millisecond
	maxRecheck = 2 * time.Second

	cure = "check the pod's annotation " + contract.AnnotationPrefix + "mode and that the " + contract.PluginType +
		" plugin was in the node's CNI chain when the pod began; then delete the pod, or let the installer repair it (--repair)"
)

var (
	errChecking = errors.New("not checked yet whether the plugin has prepared this pod")
	errDraining = errors.New("draining: no new connections")
)

// status is what /readyz says: nil is ready. Draining is for good.
type status struct {
	mu  sync.Mutex
	err error
}

func (s *status) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != errDraining {
		s.err = err
	}
}

func (s *status) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// awaitPrepared makes the proxy ready as soon as the pod is prepared, and logs
// each reason against it once.
func (p *proxy) awaitPrepared(ctx context.Context) {
	logged := ""
	known := sync.OnceFunc(func() { close(p.checked) })
	defer known()
	for wait := minRecheck; ; wait = min(2*wait, maxRecheck) {
		err := p.checkPrepared(ctx)
		if ctx.Err() != nil {
			return
		}
		p.status.set(err)
		known()
		if err == nil {
			p.log.Info("ready: the plugin has prepared this pod")
			return
		}
		if logged != err.Error() {
			logged = err.Error()
			p.log.Warn("not ready: connections to this pod are not intercepted", "err", err, "cure", cure)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// family is what the check uses of one address family.
type family struct {
	name string

	// nobody is a source for the probe: an address for documentation (RFC
	// 5737, RFC 3849), which no client has.
	nobody netip.Addr

	sysctls []string // that the plugin sets to 1
}

var families = []family{
	{
		"IPv4", netip.MustParseAddr("192.0.2.1"),
		[]string{"net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect"},
	},
	{
		"IPv6", netip.MustParseAddr("2001:db8::1"),
		[]string{"net.ipv4.tcp_fwmark_accept", "net.ipv6.fwmark_reflect"}, // the first is for both
	},
}

// checkPrepared returns nil, or for each family of the pod what is missing.
func (p *proxy) checkPrepared(ctx context.Context) error {
	var errs []error
	checked := 0
	for _, f := range families {
		own, err := p.dialer.own.one(f.nobody.Is6())
		if err != nil {
			return err
		}
		if !own.IsValid() {
			continue
		}
		checked++
		if err := p.checkFamily(ctx, f, own); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
	}
	if checked == 0 {
		return errors.New("this pod has no address yet")
	}
	return errors.Join(errs...)
}

// checkFamily goes from what tells the cause best to what proves most.
func (p *proxy) checkFamily(ctx context.Context, f family, own netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	ln, err := listenOne(ctx, "tcp", netip.AddrPortFrom(own, 0))
	if err != nil {
		return err // IPv6's duplicate address detection, say
	}
	defer ln.Close()
	here := plain(ln.Addr())

	if err := tryBind(ctx, f.nobody); err != nil {
		return fmt.Errorf("%w: %w", err, errUnprepared)
	}
	if err := checkSysctls(f.sysctls); err != nil {
		return err
	}
	conn, err := connect(ctx, netip.AddrPortFrom(f.nobody, 0), here)
	if err != nil {
		return fmt.Errorf("a connection within the pod from %s does not come about: the plugin's nftables table "+
			"or its routing rules are missing, or the plugin was told another proxy-uid than this process's %d: %w",
			f.nobody, os.Getuid(), err)
	}
	reset(conn)
	return p.checkMode(ctx, f, own, here)
}

// checkMode tells the two modes' tables apart.
func (p *proxy) checkMode(ctx context.Context, f family, own netip.Addr, here netip.AddrPort) error {
	source, dst := netip.AddrPort{}, here
	if p.mode == contract.ModeTProxy {
		// The table of this mode refuses a spoofed connection to a
		// transparent socket, such as our listener.
		source, dst = netip.AddrPortFrom(f.nobody, 0), netip.AddrPortFrom(own, p.dialer.port)
		if at := p.addr.Addr(); !at.IsUnspecified() && at != own {
			return nil // nothing listens there
		}
	}
	conn, err := connect(ctx, source, dst)
	switch {
	case err == nil:
		defer reset(conn)
	case p.mode == contract.ModeTProxy && errors.Is(err, unix.ECONNREFUSED):
		return nil
	case !errors.Is(err, unix.ECONNRESET): // which is our own answer, not the table's
		return fmt.Errorf("connect within the pod: %w", err)
	}
	if p.mode == contract.ModeNAT && err == nil {
		// The table of this mode makes conntrack follow the pod's
		// connections.
		raw, rerr := conn.SyscallConn()
		if rerr != nil {
			return rerr
		}
		cerr := raw.Control(func(fd uintptr) { _, err = redirectedFrom(int(fd), here) })
		if err = errors.Join(cerr, err); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the plugin has prepared this pod for another mode than this process's --mode %s", p.mode)
}

// tryBind finds out whether anybody may use addr as a source. It does so
// without IPV6_FREEBIND, which would always succeed.
func tryBind(ctx context.Context, addr netip.Addr) error {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return err
	}
	return conn.Close()
}

func checkSysctls(keys []string) error {
	for _, key := range keys {
		b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
		if err != nil {
			return fmt.Errorf("read sysctl: %w", err)
		}
		if v := strings.TrimSpace(string(b)); v != "1" {
			return fmt.Errorf("sysctl %s is %s, not 1", key, v)
		}
	}
	return nil
}
