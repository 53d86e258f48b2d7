package main

import (
	"runtime/debug"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

const (
	keptConns     = 64          // idle structs kept for reuse
	manyConns     = 512         // have memory that is worth giving back when they go
	crowd         = 4096        // leaves as much behind by coming
	gaveBackPause = time.Second // between two times: it takes a garbage collection
)

// table is a loop's connections by descriptor, and the memory for them.
type table struct {
	slots    []slot
	count    int // of connections
	ids      uint32
	free     []*conn
	gaveBack memory // the last time
}

// slot is a descriptor's connection, and which of its sides.
type slot struct {
	conn *conn // nil: none
	side int
}

// memory is when a loop gave memory back to the kernel.
type memory struct {
	at    time.Time
	conns int // it had then
	most  int // it had since
}

// place makes events of a side's descriptor the connection's.
func (t *table) place(c *conn, side int) {
	fd := int(c.relay.Sides[side].FD)
	for fd >= len(t.slots) {
		t.slots = append(t.slots, make([]slot, max(64, len(t.slots)))...)
	}
	t.slots[fd] = slot{c, side}
}

// remove closes a descriptor, by which epoll forgets it.
func (t *table) remove(fd int) {
	t.slots[fd] = slot{}
	sys.Close(fd)
}

func (t *table) newConn() *conn {
	var c *conn
	if n := len(t.free); n > 0 {
		c, t.free = t.free[n-1], t.free[:n-1]
	} else {
		c = &conn{}
	}
	if t.ids++; t.ids == 0 {
		t.ids++ // 0 is an ended connection's
	}
	*c = conn{id: t.ids}
	t.count++
	t.gaveBack.most = max(t.gaveBack.most, t.count)
	return c
}

func (t *table) freeConn(c *conn) {
	c.id = 0
	t.count--
	if len(t.free) < keptConns {
		t.free = append(t.free, c)
	}
}

// giveMemoryBack returns to the kernel what the coming of a crowd left behind, at
// once, while there is work anyway, and what many connections needed that have gone.
// It returns when to come again, zero if nothing is due.
func (t *table) giveMemoryBack(now time.Time) (due time.Time) {
	last := t.gaveBack
	switch {
	case t.count >= max(crowd, 2*last.conns):
	case last.most >= manyConns && t.count <= last.most/8:
		if due = last.at.Add(gaveBackPause); now.Before(due) {
			return due
		}
	default:
		return due
	}
	t.gaveBack = memory{now, t.count, t.count}
	if t.count == 0 {
		t.slots, t.free = nil, nil
	}
	go debug.FreeOSMemory()
	return time.Time{}
}
