package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ending is how a connection ended: a word for the log, and why.
type ending struct {
	how string
	err error
}

// How relayed connections end. The others are a side's name and what it did.
const (
	endClosed  = "closed"  // both sides have sent their FIN and all bytes are delivered to the kernel
	endDrained = "drained" // cut off when we had to end
)

// How connections end that were never relayed.
const (
	endRejected    = "rejected"    // we do not connect to that destination
	endRefused     = "refused"     // the application does not listen, or is full
	endUnreachable = "unreachable" // no answer, or no route
	endUnprepared  = "unprepared"  // the plugin's work is missing
	endExhausted   = "exhausted"   // no descriptor, port or memory left
	endError       = "error"
)

func dialEnd(err error) string {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(errUnprepared):
		return endUnprepared
	case is(unix.ECONNREFUSED, unix.ECONNRESET):
		return endRefused
	case is(os.ErrDeadlineExceeded, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH):
		return endUnreachable
	case is(errNoPort, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRINUSE, unix.EADDRNOTAVAIL):
		return endExhausted
	}
	return endError
}
