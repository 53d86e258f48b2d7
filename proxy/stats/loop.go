// Package stats counts what the sidecar does.
//
// Each event loop has counters of its own and is the only one that writes them:
// counting takes no lock and no memory, and no cache line goes back and forth between
// processors. Whoever reads sums them (Sum), from any goroutine, while they change.
package stats

import (
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// Loop is the counters of one loop. Its zero value is ready.
type Loop struct {
	Accepted   atomic.Int64 // connections taken from the listener's queue
	HalfClosed atomic.Int64 // that are open now, with one direction ended and the other not
	Retries    atomic.Int64 // attempts to dial after a connection's first

	// Relayed is the bytes of each side that the other side's socket has taken. It
	// points to where they are counted; nil: none.
	Relayed *[2]atomic.Int64

	closed [len(accesslog.Ends)]atomic.Int64
	spoofs [len(Spoofs)]atomic.Int64
	errnos [len(errnos) + 1]atomic.Int64 // the last: any other
	pauses [len(Pauses)]atomic.Int64
	dials  histogram

	_ [64]byte // what lies behind is another's, and not in the same cache line
}

// Spoof is what the application sees of a client.
type Spoof int

const (
	AddressPort Spoof = iota // both are the client's
	Address                  // the port is another
	None                     // the source is the kernel's choice: the client is the pod itself
)

// Spoofs are the names of Spoof's values.
var Spoofs = [...]string{AddressPort: "address_port", Address: "address", None: "none"}

// Pause is why no connection is accepted for a while: clients wait in the listener's
// queue.
type Pause int

const (
	PauseLimit  Pause = iota // as many connections as the limit of open files allows
	PauseFiles               // EMFILE, ENFILE
	PauseMemory              // ENOMEM, ENOBUFS
	PauseOther               // another error of accept(2)
)

// Pauses are the names of Pause's values.
var Pauses = [...]string{PauseLimit: "limit", PauseFiles: "files", PauseMemory: "memory", PauseOther: "other"}

// errnos are the errors of an attempt to dial that are counted by name.
var errnos = [...]struct {
	errno unix.Errno
	name  string
}{
	{unix.EACCES, "EACCES"}, // a privileged port, or a rule
	{unix.EADDRINUSE, "EADDRINUSE"},
	{unix.EADDRNOTAVAIL, "EADDRNOTAVAIL"},
	{unix.ECONNREFUSED, "ECONNREFUSED"},
	{unix.ECONNRESET, "ECONNRESET"},
	{unix.EHOSTUNREACH, "EHOSTUNREACH"},
	{unix.EINVAL, "EINVAL"}, // the plugin's routing is missing
	{unix.EMFILE, "EMFILE"},
	{unix.ETIMEDOUT, "ETIMEDOUT"}, // also our own timeout
}

const otherErrno = "other"

// Errnos are the names by which failed attempts to dial are counted.
func Errnos() (all []string) {
	for _, e := range errnos {
		all = append(all, e.name)
	}
	return append(all, otherErrno)
}

// End counts a connection that is over. how is one of accesslog.Ends.
func (l *Loop) End(how string) {
	i := slices.Index(accesslog.Ends[:], how)
	if i < 0 {
		i = slices.Index(accesslog.Ends[:], accesslog.Failed)
	}
	l.closed[i].Add(1)
}

// Established counts a connection to the application, and how long it took since the
// client was accepted.
func (l *Loop) Established(s Spoof, took time.Duration) {
	l.spoofs[s].Add(1)
	l.dials.observe(took)
}

// DialFailed counts an attempt that failed with err.
func (l *Loop) DialFailed(err error) {
	var errno unix.Errno
	if errors.Is(err, os.ErrDeadlineExceeded) {
		errno = unix.ETIMEDOUT
	} else {
		errors.As(err, &errno)
	}
	for i := range errnos {
		if errnos[i].errno == errno {
			l.errnos[i].Add(1)
			return
		}
	}
	l.errnos[len(errnos)].Add(1)
}

// Pause counts that no more connections are accepted for now.
func (l *Loop) Pause(p Pause) { l.pauses[p].Add(1) }

// PauseOf is the reason that an error of accept(2) is.
func PauseOf(err error) Pause {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return PauseFiles
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		return PauseMemory
	}
	return PauseOther
}
