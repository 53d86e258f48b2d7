package main

import (
	"sync"

	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

// cell is what the clients of a kind did in one mode over one family.
type cell struct {
	Conns  int64 // opened
	Peers  int64 // times that the peer that the application saw was compared
	Others int64 // of those, how often the port was another one
	Bytes  int64 // compared, of those that carry more than requests

	used uint64 // pairs of the client's address and port
}

func cellOf(r traffic.Result) cell { return cell{r.Conns, r.Peers, r.Others, r.Bytes, r.Next} }

func (c cell) plus(d cell) cell {
	return cell{c.Conns + d.Conns, c.Peers + d.Peers, c.Others + d.Others, c.Bytes + d.Bytes, max(c.used, d.used)}
}

// place is a cell's: the row, and the column.
type place struct{ kind, mode, family string }

// ledger is what all clients did.
type ledger struct {
	mu       sync.Mutex
	cells    map[place]cell
	failures []string
}

func (l *ledger) add(p place, c cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cells == nil {
		l.cells = map[place]cell{}
	}
	l.cells[p] = l.cells[p].plus(c)
}

// fail notes what went wrong.
func (l *ledger) fail(p place, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, p.mode+" "+p.family+", "+p.kind+": "+err.Error())
}

// used is how many pairs of address and port the clients of a cell have used.
func (l *ledger) used(p place) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cells[p].used
}

// of sums up the cells for which all that is not empty is the same.
func (l *ledger) of(p place) (sum cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for q, c := range l.cells {
		if (p.kind == "" || p.kind == q.kind) && (p.mode == "" || p.mode == q.mode) && (p.family == "" || p.family == q.family) {
			sum = sum.plus(c)
		}
	}
	return sum
}
