package relay

import (
	"errors"

	"golang.org/x/sys/unix"
)

// The two sides of a connection. A half has the number of the side that it reads.
const (
	Client = iota
	Application
)

var sideNames = [...]string{Client: "client", Application: "application"}

// Side is one of the two sockets. Edge-triggered epoll (EPOLLET) reports a change
// once, so it is kept here until a system call says otherwise.
type Side struct {
	FD       int32 `json:"fd"`
	Readable bool  `json:"readable,omitempty"` // no read has got EAGAIN, nor all there was, since the last event
	Writable bool  `json:"writable,omitempty"` // no write has got EAGAIN since the last event
	Tunes    bool  `json:"tunes,omitempty"`    // the kernel may grow its receive buffer beyond what sock.LimitReceive sets
	Ended    bool  `json:"ended,omitempty"`    // a FIN or RST has come: no event will announce what is left to read
	Failed   bool  `json:"failed,omitempty"`   // the socket has a pending error
}

// Note records what epoll reported.
func (s *Side) Note(events uint32) {
	const ends = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if events&(unix.EPOLLIN|ends) != 0 {
		s.Readable = true
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.Writable = true
	}
	if events&ends != 0 {
		s.Ended = true
	}
	if events&unix.EPOLLERR != 0 {
		s.Failed = true
	}
}

// Broken is the error of a side that failed: "read: connection reset by peer".
type Broken struct {
	Side int
	Err  error
}

func (b *Broken) Error() string { return b.Err.Error() }

// Unwrap returns the system call's error.
func (b *Broken) Unwrap() error { return b.Err }

// How names the side and what became of it: "client reset", "application timeout",
// "client error".
func (b *Broken) How() string {
	what := "error"
	switch {
	case errors.Is(b.Err, unix.ECONNRESET), errors.Is(b.Err, unix.EPIPE), errors.Is(b.Err, unix.ENOTCONN):
		what = "reset"
	case errors.Is(b.Err, unix.ETIMEDOUT), errors.Is(b.Err, unix.EHOSTUNREACH), errors.Is(b.Err, unix.ENETUNREACH):
		what = "timeout" // keepalive or retransmissions went unanswered
	}
	return sideNames[b.Side] + " " + what
}
