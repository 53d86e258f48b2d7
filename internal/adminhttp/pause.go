package adminhttp

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// pausePatience bounds the wait for the requests that are being answered.
const pausePatience = time.Second

// Server answers requests on one listener, and can pause.
type Server struct {
	log  *slog.Logger
	ln   *net.TCPListener
	h    http.Handler
	door *door

	asked, paused, resumed chan struct{}
}

// New makes a server that owns ln.
func New(log *slog.Logger, ln *net.TCPListener, h http.Handler) *Server {
	return &Server{log: log, ln: ln, h: h, door: newDoor(),
		asked: make(chan struct{}, 1), paused: make(chan struct{}), resumed: make(chan struct{})}
}

// Pause makes clients wait in the listener's queue. It returns true when all whose request
// is here have their answer, or after a second, false if ctx, which is Serve's, ends.
// After true call Resume.
func (s *Server) Pause(ctx context.Context) bool {
	s.asked <- struct{}{}
	_ = s.ln.SetDeadline(time.Now()) // ends Accept
	select {
	case <-s.paused:
	case <-ctx.Done():
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
	s.resumed <- struct{}{}
}

// pause waits in Serve's loop for Resume, if Pause has been called.
func (s *Server) pause(ctx context.Context) {
	select {
	case <-s.asked:
	default:
		return
	}
	select {
	case s.paused <- struct{}{}:
	case <-ctx.Done():
		return
	}
	select {
	case <-s.resumed:
	case <-ctx.Done():
	}
}

// busy reports whether a connection is being served that does not wait for its peer.
func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.open {
		if !c.waits {
			return true
		}
	}
	return false
}
