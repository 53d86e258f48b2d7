package main

import "time"

// tenths is a time of the loop in tenths of a second: 13 years in four bytes.
type tenths uint32

func (t tenths) duration() time.Duration { return time.Duration(t) * 100 * time.Millisecond }

func tenthsOf(d time.Duration) tenths {
	return tenths((d + 99*time.Millisecond) / (100 * time.Millisecond))
}
