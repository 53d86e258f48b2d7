package main

import (
	"io"

	"github.com/tproxy-cni/tproxy-cni/proxy/handover"
)

// predecessor is a sidecar whose connections this one gets: the program that this process
// was, or one that has left them to a holder.
type predecessor struct {
	*handover.Reader        // nil: there is none
	asks             bool   // only whether this program could take over
	done             func() // tells that it has
}

// predecessor finds the one that there is. The error says why this program, with these
// settings, cannot go on where that one was: nothing is taken from it then.
func (c *config) predecessor() (p predecessor, err error) {
	p.done = func() {}
	if p.Reader, p.asks, err = handover.Inherited(); err == nil && p.Reader != nil {
		p.done = p.Close
		return p, c.fits(&p.State)
	}
	if err == nil && c.hold != "" {
		err = c.fetch(&p)
	}
	return p, err
}

// fetch takes what the holder has, if it has anything.
func (c *config) fetch(p *predecessor) (err error) {
	offer, err := handover.Ask(c.hold)
	if offer == nil || err != nil {
		return err
	}
	defer func() {
		if err != nil {
			offer.Done(false)
		}
	}()
	look, err := offer.Look()
	if err == nil {
		err = c.fits(&look.State)
	}
	if err == nil {
		err = look.Agree(io.Discard)
	}
	if err == nil {
		p.Reader, err = offer.Take()
	}
	p.done = func() { offer.Done(true) }
	return err
}
