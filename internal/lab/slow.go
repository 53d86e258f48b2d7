package lab

import (
	"os"
	"strconv"
	"time"
)

// slow is how many times slower than the computers that the tests were written
// on this one is: LAB_SLOW says so, where the processor is emulated. It reaches
// waits and counts, and nothing that a test asserts.
var slow = func() int {
	n, err := strconv.Atoi(os.Getenv("LAB_SLOW"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}()

// Count is n, or where the computer is slower than others a share of it: for
// what takes the longer the more there is of it, connections or bytes.
func Count(n int) int { return max(1, n/slow) }

// limit is a time that nothing takes, not even on a slow computer.
func limit(d time.Duration) time.Duration { return d * time.Duration(slow) }

// Programs is the directory of the programs under test where somebody has built
// them already, in LAB_PROGRAMS; empty where the tests build them.
func Programs() string { return os.Getenv("LAB_PROGRAMS") }
