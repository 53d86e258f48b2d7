package intercept

import (
	"fmt"
	"strings"
)

// portSet is a set of TCP ports, a bit for each.
type portSet [1 << 16 / 64]uint64

// portRange are the ports from low to high.
func portRange(low, high uint16) (s portSet) {
	s.add(low, high)
	return s
}

// add adds the ports from low to high, a word at a time: a pod may have any number of
// rules.
func (s *portSet) add(low, high uint16) {
	if low > high {
		return
	}
	first, last := int(low/64), int(high/64)
	for w := first; w <= last; w++ {
		bits := ^uint64(0)
		if w == first {
			bits &= ^uint64(0) << (low % 64)
		}
		if w == last {
			bits &= ^uint64(0) >> (63 - high%64)
		}
		s[w] |= bits
	}
}

var everyPort = portRange(0, 1<<16-1)

func (s portSet) has(p uint16) bool { return s[p/64]>>(p%64)&1 == 1 }
func (s portSet) empty() bool       { return s == portSet{} }

func (s portSet) and(o portSet) portSet {
	for i := range s {
		s[i] &= o[i]
	}
	return s
}

func (s portSet) or(o portSet) portSet {
	for i := range s {
		s[i] |= o[i]
	}
	return s
}

func (s portSet) less(o portSet) portSet {
	for i := range s {
		s[i] &^= o[i]
	}
	return s
}

// mostRanges is how many ranges of ports a text names.
const mostRanges = 8

// String is "" for every port, and else begins with a blank: " to port 80", " but not
// to ports 22, 8000-8010".
func (s portSet) String() string {
	s[0] |= 1 // no connection is to port 0
	if s == everyPort {
		return ""
	}
	const most = 60000
	n := 0
	for p := range 1 << 16 {
		if s.has(uint16(p)) {
			n++
		}
	}
	prefix := " to"
	if n > most {
		prefix, s = " but not to", everyPort.less(s)
	}
	s[0] &^= 1
	ranges := s.ranges()
	word := " port "
	if len(ranges) > 1 || strings.Contains(ranges[0], "-") {
		word = " ports "
	}
	if len(ranges) > mostRanges {
		ranges = append(ranges[:mostRanges], "...")
	}
	return prefix + word + strings.Join(ranges, ", ")
}

func (s portSet) ranges() (list []string) {
	for low := 0; low < 1<<16; low++ {
		if !s.has(uint16(low)) {
			continue
		}
		high := low
		for high+1 < 1<<16 && s.has(uint16(high+1)) {
			high++
		}
		if low == high {
			list = append(list, fmt.Sprint(low))
		} else {
			list = append(list, fmt.Sprintf("%d-%d", low, high))
		}
		low = high
	}
	return list
}
