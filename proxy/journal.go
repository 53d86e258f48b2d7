package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
)

// record is what the log says of one connection at its end.
type record struct {
	client, dst, source netip.AddrPort
	up, down            int64
	took                time.Duration
	ending
}

// journal writes the lines of connections in a goroutine of its own: who reads
// our log must not hold up a loop and all its connections. While the reader is
// too slow, lines are lost and counted. On debug level each line is written
// before anything else happens.
type journal struct {
	log     *slog.Logger
	level   slog.Level // below it nothing is written
	records chan record
	lost    atomic.Int64
	done    chan struct{}
}

const journalSize = 1024 // lines

func newJournal(log *slog.Logger) *journal {
	j := &journal{
		log:     log,
		level:   slog.LevelWarn,
		records: make(chan record, journalSize),
		done:    make(chan struct{}),
	}
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		if log.Enabled(context.Background(), level) {
			j.level = level
		}
	}
	go j.write()
	return j
}

// add writes a record, or has it written without waiting for that.
func (j *journal) add(r record) {
	switch {
	case r.level() < j.level:
		return
	case j.level == slog.LevelDebug:
		j.line(&r)
		return
	}
	select {
	case j.records <- r:
	default:
		j.lost.Add(1)
	}
}

// accepted writes, on debug level, that a connection has come.
func (j *journal) accepted(fd int, client netip.AddrPort) {
	if j.level == slog.LevelDebug {
		local, _ := localOf(fd)
		j.log.Debug("accepted", "client", client, "local", local)
	}
}

// busy tells whether lines wait to be written.
func (j *journal) busy() bool { return len(j.records) > 0 }

// close returns when all is written that somebody reads.
func (j *journal) close() {
	close(j.records)
	drain.Say(func() { <-j.done })
}

func (j *journal) write() {
	defer close(j.done)
	defer j.tellLost()
	for r := range j.records {
		j.tellLost()
		j.line(&r)
	}
}

func (j *journal) line(r *record) {
	attrs := []slog.Attr{
		slog.Any("client", r.client),
		slog.Any("dst", r.dst),
		slog.Any("source", r.source),
		slog.Int64("bytes_up", r.up),
		slog.Int64("bytes_down", r.down),
		slog.Float64("seconds", float64(r.took.Microseconds())/1e6),
		slog.String("end", r.how),
	}
	if r.err != nil {
		attrs = append(attrs, slog.Any("err", r.err))
	}
	j.log.LogAttrs(context.Background(), r.level(), "connection", attrs...)
}

func (j *journal) tellLost() {
	if n := j.lost.Swap(0); n > 0 {
		j.log.Warn("the reader of this log is too slow: lines of connections are lost", "lines", n)
	}
}

func (r *record) level() slog.Level {
	if r.how == endUnprepared || r.how == endExhausted {
		return slog.LevelWarn
	}
	return slog.LevelInfo
}
