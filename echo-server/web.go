package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// web answers HTTP on connections that were accepted and sniffed elsewhere.
type web struct {
	http  *http.Server
	conns chan net.Conn
	addr  net.Addr
	ended chan struct{}
}

func newWeb(log *slog.Logger, addr net.Addr) *web {
	w := &web{conns: make(chan net.Conn), addr: addr, ended: make(chan struct{})}
	w.http = &http.Server{
		Handler:           http.HandlerFunc(answer),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       10 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() { _ = w.http.Serve(w) }() // ends with close
	return w
}

// serve answers the requests of a connection from which said has been read, and
// returns when it is closed.
func (w *web) serve(c *net.TCPConn, said []byte) {
	s := &sniffed{TCPConn: c, said: said, closed: make(chan struct{})}
	w.conns <- s
	<-s.closed
}

// drain closes idle connections now and the others after their next answer.
func (w *web) drain() { w.http.SetKeepAlivesEnabled(false) }

func (w *web) close() { _ = w.http.Close() }

// Accept, Close and Addr make w the listener of its http.Server.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.ended:
		return nil, net.ErrClosed
	}
}

// Close is called by http.Server, once.
func (w *web) Close() error { close(w.ended); return nil }

func (w *web) Addr() net.Addr { return w.addr }

// sniffed is a connection that starts with what has been read from it already.
type sniffed struct {
	*net.TCPConn
	said   []byte
	once   sync.Once
	closed chan struct{}
}

func (s *sniffed) Read(p []byte) (int, error) {
	if len(s.said) > 0 {
		n := copy(p, s.said)
		s.said = s.said[n:]
		return n, nil
	}
	return s.TCPConn.Read(p)
}

func (s *sniffed) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.TCPConn.Close()
}

// answer answers any request with the facts of its connection.
func answer(w http.ResponseWriter, r *http.Request) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	f := facts{peer, plain(r.Context().Value(http.LocalAddrContextKey).(net.Addr))}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	if !wantsJSON(r.Header.Values("Accept")) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, f.String())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f)
}

// wantsJSON reports whether an Accept header names JSON.
func wantsJSON(accept []string) bool {
	for _, a := range strings.Split(strings.Join(accept, ","), ",") {
		if t, p, err := mime.ParseMediaType(a); err == nil && t == "application/json" && p["q"] != "0" {
			return true
		}
	}
	return false
}
