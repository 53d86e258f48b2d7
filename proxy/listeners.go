package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// listeners are all that the sidecar has.
type listeners struct {
	fd    int // of intercepted connections
	admin *net.TCPListener
	front *sock.UnixListener // nil: none
}

// openListeners opens them, and gives up every capability.
func openListeners(ctx context.Context, c config) (l listeners, err error) {
	ln, err := privileged(func() (*net.TCPListener, error) { return openListener(ctx, c) })
	if err != nil {
		return l, probe.ExplainTaken(err, c.addr.Port(), "addr", "proxy-port")
	}
	if l.fd, err = sock.Detach(ln); err != nil {
		return l, err
	}
	if l.admin, err = sock.Listen(ctx, c.admin); err != nil {
		return l, fmt.Errorf("admin: %w", probe.ExplainTaken(err, c.admin.Port(), "admin", "admin-port"))
	}
	if c.front.path != "" {
		front, err := sock.ListenUnix(c.front.path, c.front.mode())
		if err != nil {
			return l, fmt.Errorf("accept-proxy: %w", err)
		}
		l.front = &front
	}
	return l, nil
}

// inheritListeners takes those that another program hands over. It gives up the
// capability that the program file may have brought again.
func inheritListeners(s *handover.State) (l listeners, err error) {
	if err := dropCapabilities(); err != nil {
		return l, err
	}
	for _, fd := range s.Descriptors() {
		unix.CloseOnExec(int(*fd))
	}
	l.fd = int(s.Listeners[0].FD)
	for _, other := range s.Listeners[1:] {
		front := *other.Unix
		front.FD = int(other.FD)
		l.front = &front
	}
	file := os.NewFile(uintptr(s.Admin.FD), "admin")
	if file == nil {
		return l, unix.EBADF
	}
	defer file.Close()
	ln, err := net.FileListener(file)
	if err != nil {
		return l, fmt.Errorf("admin: %w", err)
	}
	l.admin = ln.(*net.TCPListener)
	return l, nil
}

// fits returns nil if a sidecar with these settings can go on where another has been.
func (c *config) fits(s *handover.State) (err error) {
	front := ""
	for i, l := range s.Listeners[1:] {
		if i > 0 || l.Unix == nil {
			return errors.New("the sidecar to take over from has a listener that this one does not know")
		}
		front = l.Unix.Path
	}
	for _, d := range []struct {
		flag      string
		has, want any
	}{
		{"mode", s.Mode, c.mode},
		{"addr", s.Listeners[0].Addr.Port(), c.addr.Port()},
		{"admin", s.Admin.Addr.Port(), c.admin.Port()},
		{"accept-proxy", front, c.front.path},
	} {
		if d.has != d.want {
			err = errors.Join(err, fmt.Errorf("--%s is %v, and the sidecar to take over from has %v", d.flag, orNone(d.want), orNone(d.has)))
		}
	}
	return err
}

// orNone is a setting as an error shows it.
func orNone(setting any) string { return cmp.Or(fmt.Sprint(setting), "none") }
