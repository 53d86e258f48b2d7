package podstat

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Process is what this process takes.
type Process struct {
	CPU       time.Duration `json:"cpu_nanoseconds"` // user and system
	Resident  uint64        `json:"resident_bytes"`
	Virtual   uint64        `json:"virtual_bytes"`
	Files     uint64        `json:"files"` // open descriptors
	FileLimit uint64        `json:"file_limit"`
	Started   time.Time     `json:"started"`
}

var started = time.Now()

// ReadProcess reads /proc/self.
func ReadProcess() (p Process, err error) {
	p.Started = started
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return p, os.NewSyscallError("getrusage", err)
	}
	p.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return p, os.NewSyscallError("getrlimit", err)
	}
	p.FileLimit = limit.Cur
	const path = "/proc/self/statm"
	var buf [128]byte
	text, err := head(path, buf[:])
	if err != nil {
		return p, err
	}
	if _, err := fmt.Sscan(string(text), &p.Virtual, &p.Resident); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	p.Virtual *= uint64(os.Getpagesize())
	p.Resident *= uint64(os.Getpagesize())
	p.Files, err = openFiles()
	return p, err
}

// openFiles is how many descriptors are open, without the one that it opens itself.
func openFiles() (n uint64, err error) {
	const path = "/proc/self/fd"
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Size > 0 { // since Linux 6.2
		return uint64(stat.Size), nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n, err = entries(fd)
	return n - min(n, 1), err
}

// entries counts a directory's entries: there may be very many, and their names are not
// needed.
func entries(dir int) (n uint64, err error) {
	buf := make([]byte, 8<<10)
	for {
		got, err := unix.Getdents(dir, buf)
		if err != nil || got == 0 {
			return n - min(n, 2), os.NewSyscallError("getdents64", err) // "." and ".."
		}
		for at := 0; at+18 <= got; n++ {
			at += int(binary.NativeEndian.Uint16(buf[at+16:])) // d_reclen of struct linux_dirent64
		}
	}
}
