package traffic

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Latency is in microseconds.
type Latency struct{ P50, P90, P99, P999, Max float64 }

// busy returns how many seconds the machine's CPUs have been busy. It is derived from
// their idle time, which the kernel measures; busy time it only samples.
func busy() float64 {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var cpus, idle float64
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if !strings.HasPrefix(line, "cpu") || len(f) < 9 {
			break
		}
		if f[0] != "cpu" {
			cpus++
			continue
		}
		for _, i := range []int{4, 5, 8} { // idle, iowait, steal
			ticks, _ := strconv.ParseFloat(f[i], 64)
			idle += ticks / 100
		}
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	return cpus*float64(now.Nano())/1e9 - idle
}

func percentiles(all []time.Duration) Latency {
	if len(all) == 0 {
		return Latency{}
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e3
	}
	return Latency{at(.5), at(.9), at(.99), at(.999), at(1)}
}
