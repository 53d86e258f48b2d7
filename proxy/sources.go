package main

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/tproxy-cni/tproxy-cni/internal/source"
)

const (
	// The last sixteenth of the places is for sources that have few. A single
	// source, such as a gateway for all clients, may have the rest.
	reservedShare = 16

	// Fewer places than this are not shared out.
	minShared = 256
)

// reservedOf is how many places of a limit are for sources that have few.
func reservedOf(limit int64) int64 {
	if limit < minShared {
		return 0
	}
	return limit / reservedShare
}

// sources counts the connections of each source. While there are plenty of places it
// does nothing else. Of the reserved ones a source may have a sixteenth of those left
// at the time, at least one; all its connections count. So a source that has filled
// the others gets none of these, and it takes some sixty sources to fill them. The
// zero value is ready.
type sources struct {
	mu   sync.Mutex
	held map[sourceKey]int32 // never 0
	most int                 // the map's greatest length
}

// sourceKey is a source in few bytes, as each connection may have its own: the
// network of an IPv6 /64, or an IPv4 address within 0:ffff::/32, which the IETF
// reserves.
type sourceKey uint64

func keyOf(client netip.Addr) sourceKey {
	a := source.Of(client).Addr()
	if a.Is4() {
		b := a.As4()
		return 0xffff<<32 | sourceKey(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return sourceKey(binary.BigEndian.Uint64(b[:8]))
}

// manySources is the size at which the map is worth freeing.
const manySources = 1024

// enter counts one more connection of a client if there is room for it: if there are
// plenty of places, or within the source's part of those left. It returns how many
// the source has.
func (s *sources) enter(client netip.Addr, plenty bool, left int64) (held int, ok bool) {
	of := keyOf(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	held = int(s.held[of])
	if !plenty && held >= max(1, int(left)/reservedShare) {
		return held, false
	}
	if s.held == nil {
		s.held = map[sourceKey]int32{}
	}
	s.held[of] = int32(held + 1)
	s.most = max(s.most, len(s.held))
	return held + 1, true
}

// leave undoes enter.
func (s *sources) leave(client netip.Addr) {
	of := keyOf(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.held[of]; n > 1 {
		s.held[of] = n - 1
		return
	}
	delete(s.held, of)
	if s.most >= manySources && len(s.held) == 0 {
		s.held, s.most = nil, 0 // a map never shrinks; a new one is small
	}
}
