// Package handover is how one sidecar leaves all that it has to the next: descriptors,
// which both have under the same numbers, and a document that says what each of them is.
// It knows neither event loops nor settings.
package handover

import (
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/dial"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/relay"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// Format is the document's. A program that does not know a field refuses the document, so
// a new field needs no new format unless an older program could go on without it and must
// not.
const Format = 1

// State is all but the connections.
type State struct {
	Format  int    `json:"format"`
	Version string `json:"version"` // of the program that hands over
	Mode    string `json:"mode"`
	Began   Moment `json:"began"` // when the first program did
	Frozen  Moment `json:"frozen"`

	Level    slog.Level     `json:"level"`
	LogTold  int64          `json:"log_told,omitempty"` // of Counters.LinesLost, those that the log says are lost
	Counters stats.Snapshot `json:"counters"`
	Pod      Pod            `json:"pod"`

	Admin     Listener   `json:"admin"`
	Listeners []Listener `json:"listeners"` // the TCP one first
	Arrivals  []Arrival  `json:"arrivals,omitempty"`

	Connections int `json:"connections"` // that follow
}

// Pod is what is known of the pod.
type Pod struct {
	Fault   *probe.Fault   `json:"fault,omitempty"`
	Ports   *probe.Fault   `json:"ports,omitempty"`
	Guard   contract.Guard `json:"guard,omitempty"`
	Checked time.Time      `json:"checked,omitzero"`
}

// Listener is a listener with its queue.
type Listener struct {
	FD      int32              `json:"fd"`
	Addr    netip.AddrPort     `json:"addr,omitzero"`
	Unix    *sock.UnixListener `json:"unix,omitempty"`
	Waiting []Arrival          `json:"waiting,omitempty"` // accepted, but there is no place for them yet
}

// Arrival is an accepted connection with which nothing has been done.
type Arrival struct {
	FD     int32          `json:"fd"`
	Client netip.AddrPort `json:"client"`
}

// Conn is a connection that is relayed, being dialled, or waiting for a PROXY header.
type Conn struct {
	Loop    int            `json:"loop,omitempty"` // that it was in, from 0
	Client  netip.AddrPort `json:"client"`
	Dst     netip.AddrPort `json:"dst"`
	Peer    netip.AddrPort `json:"peer,omitzero"` // who sends its PROXY header
	Port    uint16         `json:"port,omitempty"`
	Began   Moment         `json:"began"`
	Logged  bool           `json:"logged,omitempty"`  // as open
	Dialing Moment         `json:"dialing,omitempty"` // until when, or until when the header must come
	Yielded bool           `json:"yielded,omitempty"`
	Lingers bool           `json:"lingers,omitempty"`
	Served  bool           `json:"served,omitempty"`
	Halved  Moment         `json:"halved,omitempty"` // since when it is half-closed
	Attempt dial.Handed    `json:"attempt"`
	Relay   relay.Handed   `json:"relay"`
}

// Descriptors are those that the program that takes over needs.
func (s *State) Descriptors() []*int32 {
	all := []*int32{&s.Admin.FD}
	for i := range s.Listeners {
		l := &s.Listeners[i]
		all = append(all, &l.FD)
		for j := range l.Waiting {
			all = append(all, &l.Waiting[j].FD)
		}
	}
	for i := range s.Arrivals {
		all = append(all, &s.Arrivals[i].FD)
	}
	return all
}

// Moment is a time of CLOCK_MONOTONIC, in nanoseconds, which goes on from one process to
// the next; 0: none.
type Moment int64

// Clock turns times into moments and back.
type Clock struct {
	now time.Time
	at  Moment
}

// NewClock reads both clocks.
func NewClock() Clock {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // fails for an unknown clock only
	return Clock{time.Now(), Moment(ts.Nano())}
}

// Moment is t.
func (c Clock) Moment(t time.Time) Moment { return c.at + Moment(t.Sub(c.now)) }

// Time is m, with a monotonic reading.
func (c Clock) Time(m Moment) time.Time { return c.now.Add(time.Duration(m - c.at)) }
