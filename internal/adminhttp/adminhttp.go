// Package adminhttp serves health checks and metrics on a port that every pod in the
// cluster can reach, and keeps answering while others flood it. Its cost is bounded:
// so many connections, and so much memory for each, in the process and in the kernel.
//
// It speaks HTTP/1.1 with one request a connection. net/http's server would do, but it
// does not expose whether a connection waits for its peer or the peer for us, and that
// decides which one may be reset: see door.
package adminhttp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long a peer may take to send its request, and again to take
	// the answer.
	patience = 5 * time.Second

	// lingering is how long the peer may take to send its FIN after the answer.
	lingering = 500 * time.Millisecond

	requestBytes = 8 << 10

	// The kernel's buffers of a connection. It takes twice as much.
	sendBytes, receiveBytes = 16 << 10, 4 << 10

	// shortagePause is the wait before the next try when descriptors or memory are
	// short.
	shortagePause = time.Second

	// pausePatience bounds how long a pause waits for answers that are being made.
	pausePatience = time.Second
)

// Server answers requests on one listener, and can pause.
type Server struct {
	log   *slog.Logger
	ln    *net.TCPListener
	h     http.Handler
	door  *door
	pause pause
}

// New makes a server that owns ln.
func New(log *slog.Logger, ln *net.TCPListener, h http.Handler) *Server {
	return &Server{log, ln, h, newDoor(), newPause()}
}

// Pause makes clients wait in the listener's queue. It returns true when all whose request
// is here have their answer, or after a second, and false if ctx ends before they wait.
// After true call Resume.
func (s *Server) Pause(ctx context.Context) bool {
	if !s.pause.ask(ctx, func() { _ = s.ln.SetDeadline(time.Now()) }) { // it ends Accept
		_ = s.ln.SetDeadline(time.Time{})
		return false
	}
	for end := time.Now().Add(pausePatience); s.door.busy() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return true
}

// Resume undoes Pause.
func (s *Server) Resume() {
	_ = s.ln.SetDeadline(time.Time{})
	s.pause.end()
}

// Serve answers requests on ln with h until ctx ends, and closes ln. It returns nil
// then, an error only if the listener fails for good. A shortage of descriptors or
// memory is logged and retried. A panic of h is logged and answered with 500.
func Serve(ctx context.Context, log *slog.Logger, ln *net.TCPListener, h http.Handler) error {
	return New(log, ln, h).Serve(ctx)
}

// Serve is the function of this name, for a server that can pause.
func (s *Server) Serve(ctx context.Context) error {
	if err := bound(s.ln); err != nil {
		return errors.Join(err, s.ln.Close())
	}
	defer context.AfterFunc(ctx, func() {
		s.ln.Close()
		s.door.empty()
	})()
	for {
		tcp, err := s.ln.AcceptTCP()
		switch {
		case err == nil:
			if c, err := s.door.admit(tcp); err == nil {
				go c.serve(s.log, s.h)
			}
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			s.pause.take(ctx)
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			s.log.Warn("cannot accept on the admin port", "err", err, "again_in", shortagePause)
			select {
			case <-ctx.Done():
			case <-time.After(shortagePause):
			}
		}
	}
}

// bound sets the options that connections inherit from the listener.
func bound(ln *net.TCPListener) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for _, o := range []struct{ level, option, value int }{
			{unix.SOL_SOCKET, unix.SO_SNDBUF, sendBytes},
			{unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBytes},
			// The kernel hands over a connection once its request is here, or
			// after a second: see door.
			{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1},
		} {
			err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), o.level, o.option, o.value)))
		}
	})
	return errors.Join(cerr, err)
}
