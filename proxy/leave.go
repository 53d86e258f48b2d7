package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/drain"
	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
)

// leave gives everything to the holder at a unix socket, and ends the process. It returns
// if there is none or it does not take it: then nothing has changed.
func (p *proxy) leave(path string) {
	err := p.atRest(context.Background(), func(d *handover.Document) error {
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
