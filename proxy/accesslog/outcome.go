package accesslog

import "log/slog"

// Outcome is how a connection ended: a word for the log, and the error if there
// was one.
type Outcome struct {
	How string
	Err error
}

// How relayed connections end. Others are a side and what it did, such as
// "application timeout".
const (
	Closed  = "closed"  // both sides have sent their FIN, and the kernel has all bytes
	Drained = "drained" // reset because the sidecar stopped

	ClientReset      = "client reset"
	ApplicationReset = "application reset"

	// The client closed or reset it without having sent a byte, as tcpSocket probes
	// do. They are many and say little.
	Silent = "client silent"

	// One side had sent its FIN, and then nothing moved for --half-closed-timeout.
	HalfClosed = "half-closed timeout"
)

// How connections end that were never relayed.
const (
	Rejected    = "rejected"    // not a destination to connect to
	Refused     = "refused"     // the application does not listen, or its queue is full
	Unreachable = "unreachable" // no answer, or no route
	Unprepared  = "unprepared"  // the plugin's rules are missing
	Exhausted   = "exhausted"   // no descriptor, port or memory left
	Failed      = "error"
)

// Crowded is the end of a connection that is reset at once because its source has most
// of the others. It is counted but not logged: there may be very many.
const Crowded = "crowded"

// Ends are all that How may be: relay.Broken has the words for the two sides.
var Ends = [...]string{
	Closed, Drained,
	Silent, HalfClosed,
	ClientReset, "client timeout", "client error",
	ApplicationReset, "application timeout", "application error",
	Rejected, Refused, Unreachable, Unprepared, Exhausted, Failed, Crowded,
}

func (o Outcome) level() slog.Level {
	switch o.How {
	case Unprepared, Exhausted:
		return slog.LevelWarn
	case Silent:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Suspicious reports whether the connection may have ended so because the pod is not
// prepared any more.
func (o Outcome) Suspicious() bool {
	switch o.How {
	case Unprepared, Refused, Unreachable, Failed, ApplicationReset:
		return true
	}
	return false
}
