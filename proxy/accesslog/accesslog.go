// Package accesslog writes a line for each connection at its end, and others on request.
package accesslog

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
)

// Event is what a record is about.
type Event int

// The events. Ended is of every connection.
const (
	Ended    Event = iota
	Accepted       // written at debug level; Dst is the socket's own address
	Open           // it has lived for a while
)

// Record is what the log says of a connection.
type Record struct {
	Via                 netip.AddrPort // who sent a PROXY header; port 0: over the unix socket; not valid: no header
	Client, Dst, Source netip.AddrPort
	Up, Down            int64 // bytes from the client, and to it
	Took                time.Duration
	Event
	Outcome // of Ended
}

func (r *Record) level() slog.Level {
	switch r.Event {
	case Accepted:
		return slog.LevelDebug
	case Open:
		return slog.LevelInfo
	default:
		return r.Outcome.level()
	}
}

// Log writes records in a goroutine of its own: a slow reader of the log must not
// stall an event loop and all its connections. When the queue is full, records are
// dropped and counted, and so are those that the output does not take (its disk is full).
type Log struct {
	log     *slog.Logger
	records chan Record
	flushes chan chan struct{}
	dropped atomic.Int64 // or not written, since the start
	done    chan struct{}

	// The writer's alone to change.
	reported atomic.Int64 // of dropped
	writing  atomic.Int64 // 1 while a record is on its way
}

const queueSize = 1024 // records

// New starts the writer, which Close ends. The logger's level may change at any time.
func New(log *slog.Logger) *Log {
	l := &Log{log: log, records: make(chan Record, queueSize), flushes: make(chan chan struct{}), done: make(chan struct{})}
	go l.write()
	return l
}

// Restore adds the records that another program has lost, and how many of them it has
// reported, before the first Add.
func (l *Log) Restore(lost, reported int64) {
	l.dropped.Store(lost)
	l.reported.Store(reported)
}

// Add queues a record without waiting for it to be written. It may be called from
// any goroutine, until Close.
func (l *Log) Add(r Record) {
	if !l.log.Enabled(context.Background(), r.level()) {
		return
	}
	select {
	case l.records <- r:
	default:
		l.dropped.Add(1)
	}
}

// Debug reports whether records of debug level are written.
func (l *Log) Debug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }

// Dropped is how many records were lost so far because the output was blocked, or failed.
func (l *Log) Dropped() int64 { return l.dropped.Load() }

// Lost is how many records are lost if the process ends now, and how many of them the log
// says are.
func (l *Log) Lost() (lost, reported int64) {
	return l.dropped.Load() + int64(len(l.records)) + l.writing.Load(), l.reported.Load()
}

// Busy reports whether records wait to be written.
func (l *Log) Busy() bool { return len(l.records) > 0 }

// Flush returns true when all that has been added is written, or false after a second if
// the output is blocked.
func (l *Log) Flush() bool {
	written := make(chan struct{})
	drain.LogBounded(func() {
		l.flushes <- written
		<-written
	})
	select {
	case <-written:
		return true
	default:
		return false
	}
}

// Close returns when all is written, or after a second if the output is blocked.
func (l *Log) Close() {
	close(l.records)
	drain.LogBounded(func() { <-l.done })
}

func (l *Log) write() {
	defer close(l.done)
	report := func() {
		n, before := l.dropped.Load(), l.reported.Load()
		if n > before && l.Warn("log output blocked: connection records dropped", slog.Int64("lines", n-before)) == nil {
			l.reported.Store(n)
		}
	}
	defer report()
	next := func(r Record) {
		l.writing.Store(1)
		report()
		if l.line(&r) != nil {
			l.dropped.Add(1)
		}
		l.writing.Store(0)
	}
	for {
		select {
		case r, open := <-l.records:
			if !open {
				return
			}
			next(r)
		case written := <-l.flushes:
			for range len(l.records) {
				next(<-l.records)
			}
			close(written)
		}
	}
}

// Warn writes a line of its level, as put does.
func (l *Log) Warn(message string, attrs ...slog.Attr) error {
	return l.put(slog.LevelWarn, message, attrs...)
}

// put writes a line, and unlike slog's methods returns what the output says.
func (l *Log) put(level slog.Level, message string, attrs ...slog.Attr) error {
	if !l.log.Enabled(context.Background(), level) {
		return nil
	}
	line := slog.NewRecord(time.Now(), level, message, 0)
	line.AddAttrs(attrs...)
	return l.log.Handler().Handle(context.Background(), line)
}

func (l *Log) line(r *Record) error {
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs, slog.Any("client", r.Client))
	what := "connection"
	switch r.Event {
	case Accepted:
		what = "accepted"
		attrs = append(attrs, slog.Any("local", r.Dst))
	case Open:
		what = "connection is open"
		attrs = append(attrs, r.traffic()...)
	case Ended:
		attrs = append(attrs, r.traffic()...)
		attrs = append(attrs, slog.String("end", r.How))
	}
	if r.Via.Port() != 0 {
		attrs = append(attrs, slog.Any("via", r.Via))
	} else if r.Via.IsValid() {
		attrs = append(attrs, slog.String("via", "unix"))
	}
	if r.Err != nil {
		attrs = append(attrs, slog.Any("err", r.Err))
	}
	return l.put(r.level(), what, attrs...)
}

func (r *Record) traffic() []slog.Attr {
	return []slog.Attr{
		slog.Any("dst", r.Dst),
		slog.Any("source", r.Source),
		slog.Int64("bytes_up", r.Up),
		slog.Int64("bytes_down", r.Down),
		slog.Float64("seconds", float64(r.Took.Microseconds())/1e6),
	}
}
