package intercept

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// knownSet are the elements of a set, as closed intervals, in order.
type knownSet struct {
	spans   []span
	asPorts *portSet // see ports
}

// What it costs to read a set, in steps: two requests, and its elements.
const (
	costOfRead      = 20
	elementsPerStep = 4
)

// size is the number of elements, 0 of a set that could not be read.
func (s *knownSet) size() int {
	if s == nil {
		return 0
	}
	return len(s.spans)
}

// keyLen is the length of an element in bytes, 0 of an empty set.
func (s knownSet) keyLen() int {
	if len(s.spans) == 0 {
		return 0
	}
	return len(s.spans[0].low)
}

func (s knownSet) has(key []byte) bool {
	behind, _ := slices.BinarySearchFunc(s.spans, key, func(e span, key []byte) int {
		return cmp.Or(bytes.Compare(e.low, key), -1) // the first that begins behind key
	})
	return behind > 0 && bytes.Compare(key, s.spans[behind-1].high) <= 0
}

// ports are the elements of a set of ports.
func (s *knownSet) ports() portSet {
	if s.asPorts == nil {
		s.asPorts = &portSet{}
		for _, e := range s.spans {
			if len(e.low) == 2 && len(e.high) == 2 {
				s.asPorts.add(binary.BigEndian.Uint16(e.low), binary.BigEndian.Uint16(e.high))
			}
		}
	}
	return *s.asPorts
}

// elements are those of a set of another's table; nil if they cannot be read.
func (p *pod) elements(table tableID, name string) *knownSet {
	nft, err := p.library()
	if err != nil {
		return nil
	}
	s, err := nft.GetSetByName(&nftables.Table{Name: table.name, Family: table.family}, name)
	if err != nil || s.Concatenation || s.IsMap {
		return nil
	}
	elements, err := nft.GetSetElements(s)
	if err != nil {
		return nil
	}
	known := &knownSet{}
	if !s.Interval {
		for _, e := range elements {
			known.spans = append(known.spans, span{e.Key, e.Key})
		}
		slices.SortFunc(known.spans, func(a, b span) int { return bytes.Compare(a.low, b.low) })
		return known
	}
	// The kernel lists an interval's end, which is not in it, before its start.
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := slices.Compare(a.Key, b.Key); c != 0 || a.IntervalEnd == b.IntervalEnd {
			return c
		} else if a.IntervalEnd {
			return -1
		}
		return 1
	})
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		high := []byte(strings.Repeat("\xff", len(e.Key)))
		if i+1 < len(elements) {
			high = predecessor(elements[i+1].Key)
		}
		known.spans = append(known.spans, span{e.Key, high})
	}
	return known
}

// predecessor is b minus one as a big-endian number.
func predecessor(b []byte) []byte {
	less := slices.Clone(b)
	for i := len(less) - 1; i >= 0; i-- {
		if less[i]--; less[i] != 0xff {
			break
		}
	}
	return less
}
