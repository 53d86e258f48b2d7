package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
)

// adminPatience bounds the wait for the admin port to pause: it may be short of descriptors
// for a second.
const adminPatience = 2 * time.Second

// leave gives everything to the holder at a unix socket, and ends the process. It returns
// if there is none or it does not take it: then nothing has changed.
func (p *proxy) leave(path string) {
	ctx, stop := context.WithTimeout(context.Background(), adminPatience)
	defer stop()
	if !p.adminPort.Pause(ctx) {
		return // it is not served any more, of which the log has the reason
	}
	defer p.adminPort.Resume()
	flushed := p.accesslog.Flush()
	err := p.still.during(len(p.loops), p.wakeLoops, func() error {
		if flushed {
			p.accesslog.Flush() // what has come since
		}
		d, err := p.writeDown()
		if err != nil {
			return err
		}
		defer d.Close()
		if err := d.Keep(path); err != nil {
			return err
		}
		drain.LogBounded(func() { p.log.Info("stopped: the holder has all connections", "connections", p.places.taken.Load()) })
		os.Exit(0) // the loops must not look at what is another's now
		return nil
	})
	drain.LogBounded(func() {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
			p.log.Info("no holder any more: draining", "socket", path) // so it is when the pod ends
		} else {
			p.log.Warn("the holder does not take the connections: draining", "err", err)
		}
	})
}
