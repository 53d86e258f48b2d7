package dial

import (
	"math/bits"
	"slices"
)

// portSet is the ports of one pair that are taken, as offsets into the range. An
// offset may be in it more than once. A connection's work on it, under the lock that
// all loops share, is at most one look at each word of the bits: any client can have
// all ports of a pair taken.
type portSet struct {
	few  []uint16 // up to fewPorts, in no order
	many *portBits
}

const (
	// fewPorts is where a list costs as much time as the bits, which are 128
	// bytes a connection then, and less above.
	fewPorts = 32

	portWords = (spoofPorts + 63) / 64
)

// portBits is a bit for each offset.
type portBits struct {
	taken [portWords]uint64
	n     int // bits set

	// again counts how often an offset is in the set beyond once: while a client
	// that left a connection already repeats it.
	again map[uint16]int
}

func (s *portSet) empty() bool { return len(s.few) == 0 && s.many == nil }

// free finds the first offset that is not taken, from the given one on and
// around the end of the range.
func (s *portSet) free(from int) (int, bool) {
	if s.many != nil {
		return s.many.free(from)
	}
	for slices.Contains(s.few, uint16(from)) { // as often as there are ports in the list
		from = (from + 1) % spoofPorts
	}
	return from, true
}

func (s *portSet) add(o int) {
	switch {
	case s.many != nil:
		s.many.add(o)
	case len(s.few) < fewPorts:
		s.few = append(s.few, uint16(o))
	default:
		s.many = &portBits{}
		for _, o := range s.few {
			s.many.add(int(o))
		}
		s.few = nil
		s.many.add(o)
	}
}

// remove takes an offset out once. It is in the set.
func (s *portSet) remove(o int) {
	if s.many == nil {
		last := len(s.few) - 1
		s.few[slices.Index(s.few, uint16(o))] = s.few[last]
		s.few = s.few[:last]
		return
	}
	s.many.remove(o)
	if s.many.n <= fewPorts/2 && len(s.many.again) == 0 {
		// A pair that had many and keeps one must not keep the bits.
		*s = portSet{few: s.many.list()}
	}
}

func (b *portBits) free(from int) (int, bool) {
	if b.n == spoofPorts {
		return 0, false
	}
	w := from / 64
	free := ^b.taken[w] & (^uint64(0) << (from % 64))
	for { // n says that there is one
		o := w*64 + bits.TrailingZeros64(free)
		if free != 0 && o < spoofPorts {
			return o, true
		}
		if w++; w == portWords {
			w = 0
		}
		free = ^b.taken[w]
	}
}

func (b *portBits) add(o int) {
	w, bit := o/64, uint64(1)<<(o%64)
	if b.taken[w]&bit == 0 {
		b.taken[w] |= bit
		b.n++
		return
	}
	if b.again == nil {
		b.again = map[uint16]int{}
	}
	b.again[uint16(o)]++
}

func (b *portBits) remove(o int) {
	switch n := b.again[uint16(o)]; {
	case n > 1:
		b.again[uint16(o)]--
	case n == 1:
		delete(b.again, uint16(o))
	default:
		b.taken[o/64] &^= 1 << (o % 64)
		b.n--
	}
}

func (b *portBits) list() []uint16 {
	list := make([]uint16, 0, b.n)
	for w, word := range b.taken {
		for ; word != 0; word &= word - 1 {
			list = append(list, uint16(w*64+bits.TrailingZeros64(word)))
		}
	}
	return list
}
