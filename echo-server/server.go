package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// facts are the addresses of a connection: the line that a TCP client is greeted
// with, and the answer to an HTTP request.
type facts struct {
	Peer  netip.AddrPort `json:"peer"`
	Local netip.AddrPort `json:"local"`
}

func (f facts) String() string { return fmt.Sprintf("peer=%s local=%s\n", f.Peer, f.Local) }

func factsOf(c net.Conn) facts {
	return facts{plain(c.RemoteAddr()), plain(c.LocalAddr())}
}

// plain is a TCP address, ::ffff:192.0.2.1 as 192.0.2.1.
func plain(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// server accepts connections and finds out which protocol each speaks.
type server struct {
	log   *slog.Logger
	ln    *net.TCPListener
	wait  time.Duration // see sniff
	web   *web
	conns sync.WaitGroup
}

func newServer(log *slog.Logger, ln *net.TCPListener, wait time.Duration) *server {
	return &server{log: log, ln: ln, wait: wait, web: newWeb(log, ln.Addr())}
}

// serve accepts until ctx ends, then gives the running connections drain to finish
// and resets the rest. It resets them at once when kill ends.
func (s *server) serve(ctx, kill context.Context, drain time.Duration) {
	kill, cut := context.WithCancel(kill)
	defer cut()
	defer s.web.close()
	s.accept(ctx, kill)
	s.web.drain()
	defer time.AfterFunc(drain, cut).Stop()
	s.conns.Wait()
}

// accept accepts until ctx ends. An error of accept is a shortage of descriptors or
// memory: it waits and retries.
func (s *server) accept(ctx, kill context.Context) {
	defer context.AfterFunc(ctx, func() { s.ln.Close() })()
	const first, most = 5 * time.Millisecond, time.Second
	pause := first
	for {
		conn, err := s.ln.AcceptTCP()
		if err == nil {
			pause = first
			s.conns.Go(func() { s.handle(kill, conn) })
			continue
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("cannot accept", "err", err, "again_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
}

// handle serves one connection and returns when it is closed.
func (s *server) handle(kill context.Context, c *net.TCPConn) {
	defer c.Close()
	defer context.AfterFunc(kill, func() { reset(c) })()
	f := factsOf(c)
	s.log.Info("connection", "peer", f.Peer, "local", f.Local)

	said, isHTTP, err := sniff(c, s.wait)
	switch {
	case err != nil:
	case isHTTP:
		s.web.serve(c, said)
	default:
		err = echo(c, append([]byte(f.String()), said...))
	}
	if err != nil {
		s.log.Info("connection failed", "peer", f.Peer, "err", err)
	}
}

// echo sends first, then what the client sends, up to its FIN; the close that follows
// sends ours after all that was echoed. Nothing is read that cannot be sent: a client
// that does not read is not read from.
func echo(c *net.TCPConn, first []byte) error {
	if _, err := c.Write(first); err != nil {
		return err
	}
	_, err := io.Copy(c, c) // splice(2): the bytes stay in the kernel
	return err
}

// reset closes with a RST, which the client cannot take for a regular end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
