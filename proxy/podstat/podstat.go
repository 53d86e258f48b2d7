// Package podstat reads what the kernel shows of a pod to a process within it that has
// no privilege: accept queues, connections that were lost because a queue was full,
// conntrack's entries, and what this process itself takes.
//
// Each call asks the kernel anew and is bounded in memory: none lists connections.
package podstat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
)

// Reading is all of it. What could not be read is nil, and Err says why.
type Reading struct {
	Queues     []Queue    `json:"accept_queues"`
	Drops      *Drops     `json:"drops,omitempty"`
	Conntrack  *Conntrack `json:"conntrack,omitempty"`
	Process    *Process   `json:"process,omitempty"`
	Goroutines int        `json:"goroutines"`
	Err        error      `json:"-"`
}

// Read reads all. port and except are as in Queues; tracks says whether the pod's
// connections are in conntrack, as in nat mode.
func Read(port uint16, except []uint16, tracks bool) Reading {
	r := Reading{Goroutines: runtime.NumGoroutine()}
	var errs [4]error
	r.Queues, errs[0] = Queues(port, except)
	r.Drops, errs[1] = optional(ListenDrops())
	if tracks {
		r.Conntrack, errs[2] = optional(ReadConntrack())
	}
	r.Process, errs[3] = optional(ReadProcess())
	r.Err = errors.Join(errs[:]...)
	return r
}

func optional[T any](v T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// Drops is what all listeners of the pod have lost since the pod began.
type Drops struct {
	Overflows uint64 `json:"listen_overflows"` // connections, because an accept queue was full
	Drops     uint64 `json:"listen_drops"`     // SYNs and connections for any reason, overflows among them
}

// ListenDrops reads /proc/net/netstat.
func ListenDrops() (d Drops, err error) {
	const path = "/proc/self/net/netstat"
	var buf [8 << 10]byte // the first two lines are 3 kB
	text, err := head(path, buf[:])
	if err != nil {
		return d, err
	}
	// The first line has the names, the second the values.
	names, rest, _ := bytes.Cut(text, []byte("\n"))
	values, _, _ := bytes.Cut(rest, []byte("\n"))
	found := 0
	for value := range bytes.FieldsSeq(values) {
		var name []byte
		name, names, _ = bytes.Cut(names, []byte(" "))
		var to *uint64
		switch string(name) {
		case "ListenOverflows":
			to = &d.Overflows
		case "ListenDrops":
			to = &d.Drops
		default:
			continue
		}
		if *to, err = strconv.ParseUint(string(value), 10, 64); err != nil {
			return d, fmt.Errorf("%s: %s: %w", path, name, err)
		}
		found++
	}
	if found != 2 {
		return d, fmt.Errorf("%s: no ListenOverflows and ListenDrops", path)
	}
	return d, nil
}

// Conntrack is how many connections conntrack follows in the pod, and how many it may
// in each namespace of the node.
type Conntrack struct {
	Entries uint64 `json:"entries"`
	Limit   uint64 `json:"limit"`
}

// ReadConntrack fails with fs.ErrNotExist where conntrack is not loaded.
func ReadConntrack() (c Conntrack, err error) {
	const path = "/proc/sys/net/netfilter/nf_conntrack_"
	if c.Entries, err = number(path + "count"); err == nil {
		c.Limit, err = number(path + "max")
	}
	return c, err
}

func number(path string) (uint64, error) {
	var buf [32]byte
	text, err := head(path, buf[:])
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// head reads the beginning of a file of the kernel's, as much as buf has room for.
// os.ReadFile takes several times as much memory.
func head(path string, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := io.ReadFull(f, buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return buf[:n], err
}
