package main

import (
	"context"
	"errors"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
)

// adminPatience bounds the wait for the admin port to pause: it may be short of descriptors
// for a second.
const adminPatience = 2 * time.Second

// errUnserved is of an admin port that has failed, or is short of descriptors for so long
// that it does not come to rest.
var errUnserved = errors.New("the admin port does not pause")

// handOver makes this process the program that is now where it was started from: it goes
// on with every connection. If that program cannot, this one goes on and logs why.
func (p *proxy) handOver(ctx context.Context) {
	next, err := handover.Successor()
	if err == nil {
		drain.LogBounded(func() { p.log.Info("handing over", "program", next.Path) })
		err = p.try(ctx, next)
	}
	if err == nil {
		err = p.become(ctx, next)
	}
	if errors.Is(err, context.Canceled) {
		<-ctx.Done() // it ends with the line of the log that says so
	}
	if ctx.Err() != nil {
		return // the drain says so
	}
	drain.LogBounded(func() {
		p.log.Error("not handed over: this program goes on with every connection", "err", err,
			"cure", "put a program there that runs with the same flags, and send SIGUSR2 again")
	})
}

// try lets the program read what it would get, as long as it likes: the loops stand still
// only while it is written down.
func (p *proxy) try(ctx context.Context, next handover.Program) error {
	var d *handover.Document
	err := p.still.during(len(p.loops), p.wakeLoops, func() (err error) {
		d, err = p.writeDown()
		return err
	})
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Check(ctx, next)
}

// become returns only if it fails.
func (p *proxy) become(ctx context.Context, next handover.Program) error {
	return p.atRest(ctx, func(d *handover.Document) error {
		err := d.Become(p.ending, next)
		_, limit := raiseNoFile()
		return errors.Join(err, limit)
	})
}

// atRest calls f with all that there is, while nothing changes: the admin port pauses, what
// can be logged is, and the loops stand still. The error may be f's.
func (p *proxy) atRest(ctx context.Context, f func(*handover.Document) error) error {
	patience, stop := context.WithTimeout(ctx, adminPatience)
	defer stop()
	if !p.adminPort.Pause(patience) {
		return errUnserved
	}
	defer p.adminPort.Resume()
	flushed := p.accesslog.Flush() // not while the loops stand still: it may take a second
	return p.still.during(len(p.loops), p.wakeLoops, func() error {
		if flushed {
			p.accesslog.Flush() // what has come since
		}
		d, err := p.writeDown()
		if err != nil {
			return err
		}
		defer d.Close()
		return f(d)
	})
}
