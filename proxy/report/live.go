package report

import (
	"cmp"
	"net/netip"
	"slices"
)

// Most is the number of connections that a list has, at most.
const Most = 20

// The orders of a list of connections: the most bytes first, or the oldest.
const (
	ByBytes = "bytes"
	ByAge   = "age"
)

// Live is the connections at one moment. While there are many it is put together in a
// few steps, between which some may have come and others gone.
type Live struct {
	States     States       `json:"states"`
	SortedBy   string       `json:"sorted_by"`  // ByBytes or ByAge
	List       []Connection `json:"list"`       // the first in this order, Most at most
	Incomplete bool         `json:"incomplete"` // a loop did not answer in time: its connections are missing
}

// States counts the connections by what they do. Blocked ones are relaying or half
// closed, too.
type States struct {
	AwaitingHeader          int64 `json:"awaiting_header"`
	Connecting              int64 `json:"connecting"`
	Relaying                int64 `json:"relaying"`
	HalfClosedByClient      int64 `json:"half_closed_by_client"`
	HalfClosedByApplication int64 `json:"half_closed_by_application"`
	BlockedByClient         int64 `json:"blocked_by_client"`
	BlockedByApplication    int64 `json:"blocked_by_application"`
}

// Connection is one of them.
type Connection struct {
	Client      netip.AddrPort `json:"client"`      // "" while the header of a connection on the unix socket has not come
	Via         string         `json:"via"`         // who sends a PROXY header: an address and port, or OnSocket; "": no header
	Destination netip.AddrPort `json:"destination"` // that the client wanted; "" as Client
	Source      netip.AddrPort `json:"source"`      // that the application sees; "" while there is none
	BytesUp     int64          `json:"bytes_up"`    // from the client, taken by the application's socket
	BytesDown   int64          `json:"bytes_down"`
	AgeSeconds  float64        `json:"age_seconds"`
	State       string         `json:"state"`
	BlockedBy   string         `json:"blocked_by"` // "", "client", "application" or "both": there are bytes for it, and its socket is full
}

// OnSocket is the Via of connections on the unix socket.
const OnSocket = "unix"

// The states of a connection.
const (
	AwaitingHeader          = "awaiting_header"            // its PROXY header has not come
	Connecting              = "connecting"                 // to the application
	Relaying                = "relaying"                   // in both directions
	HalfClosedByClient      = "half_closed_by_client"      // it has sent its FIN, the application has not
	HalfClosedByApplication = "half_closed_by_application" // likewise
)

// Add counts the connections of another loop.
func (s *States) Add(o States) {
	s.AwaitingHeader += o.AwaitingHeader
	s.Connecting += o.Connecting
	s.Relaying += o.Relaying
	s.HalfClosedByClient += o.HalfClosedByClient
	s.HalfClosedByApplication += o.HalfClosedByApplication
	s.BlockedByClient += o.BlockedByClient
	s.BlockedByApplication += o.BlockedByApplication
}

// First sorts a list by ByBytes or ByAge and returns its first, Most at most.
func First(list []Connection, by string) []Connection {
	slices.SortFunc(list, func(a, b Connection) int {
		bytes := 0
		if by == ByBytes {
			bytes = cmp.Compare(b.BytesUp+b.BytesDown, a.BytesUp+a.BytesDown)
		}
		return cmp.Or(bytes, cmp.Compare(b.AgeSeconds, a.AgeSeconds))
	})
	return append([]Connection{}, list[:min(len(list), Most)]...) // [] in JSON, not null
}
