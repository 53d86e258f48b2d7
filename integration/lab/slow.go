package lab

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slow is how many times slower than the computers that the tests were written
// on this one is: LAB_SLOW is set where the processor is emulated. It affects waits,
// counts and priorities, and nothing that a test asserts.
var slow = func() int {
	n, err := strconv.Atoi(os.Getenv("LAB_SLOW"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}()

// Count is n, or a share of n on a slow computer: for numbers of connections or bytes
// that take time.
func Count(n int) int { return max(1, n/slow) }

// Yield gives the calling thread the lowest priority on a slow computer: for one that
// floods without end. The thread must not be shared, as in [NS.Do].
func Yield() error {
	if slow == 1 {
		return nil
	}
	return os.NewSyscallError("setpriority", unix.Setpriority(unix.PRIO_PROCESS, 0, 19))
}

// limit is d, longer on a slow computer.
func limit(d time.Duration) time.Duration { return d * time.Duration(slow) }

// Programs is the directory of the programs under test if they are already built, from
// LAB_PROGRAMS; empty where the tests build them.
func Programs() string { return os.Getenv("LAB_PROGRAMS") }

// Previous is the same for the programs of the release before, from LAB_PREVIOUS.
func Previous() string { return os.Getenv("LAB_PREVIOUS") }
