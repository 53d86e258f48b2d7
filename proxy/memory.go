package main

import (
	"runtime/debug"
	"time"
)

// This file has what a loop holds for its connections, and gives that back to the
// kernel.

const (
	keptConns     = 64          // that are kept for the next
	manyConns     = 512         // have memory that is worth giving back when they go
	crowd         = 4096        // leaves as much behind by coming
	gaveBackPause = time.Second // since it takes a garbage collection
)

// slot is what a descriptor is to us.
type slot struct {
	conn *conn // nil: nothing
	side int
}

// place makes events of a side's descriptor the connection's.
func (l *loop) place(c *conn, i int) {
	fd := int(c.sides[i].fd)
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, max(64, len(l.slots)))...)
	}
	l.slots[fd] = slot{c, i}
}

// remove closes a descriptor; epoll forgets it with that.
func (l *loop) remove(fd int) {
	l.slots[fd] = slot{}
	closeFD(fd)
}

func (l *loop) newConn() *conn {
	var c *conn
	if n := len(l.free); n > 0 {
		c, l.free = l.free[n-1], l.free[:n-1]
	} else {
		c = &conn{}
	}
	if l.ids++; l.ids == 0 {
		l.ids++ // that of none
	}
	*c = conn{id: l.ids}
	l.conns++
	l.gaveBack.most = max(l.gaveBack.most, l.conns)
	return c
}

func (l *loop) freeConn(c *conn) {
	c.id = 0 // no event's
	l.conns--
	if len(l.free) < keptConns {
		l.free = append(l.free, c)
	}
	l.p.release()
}

// memory says when a loop gave memory back to the kernel.
type memory struct {
	at    time.Time
	conns int // it had then
	most  int // it had since
}

// giveMemoryBack returns to the kernel what the coming of a crowd has left behind,
// at once, while there is work anyway, and what many connections needed that have
// gone.
func (l *loop) giveMemoryBack() (due time.Time) {
	last := l.gaveBack
	switch {
	case l.conns >= max(crowd, 2*last.conns):
	case last.most >= manyConns && l.conns <= last.most/8:
		if due = last.at.Add(gaveBackPause); l.now.Before(due) {
			return due
		}
	default:
		return due
	}
	l.gaveBack = memory{l.now, l.conns, l.conns}
	if l.conns == 0 {
		l.slots, l.free = nil, nil
	}
	go debug.FreeOSMemory()
	return time.Time{}
}
