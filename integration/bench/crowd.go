package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
)

// crowd is a number of idle connections.
type crowd struct {
	*site
	conns  int
	client *lab.Proc
	end    io.Closer // closing it ends them
	before usage     // of the proxy, before they came
}

// crowd opens the connections. The caller kills c.client in the end.
func (s *site) crowd(b *bench, f family, conns int) (*crowd, error) {
	c := &crowd{site: s, conns: conns}
	var err error
	if c.before, err = s.usage(); err != nil {
		return nil, err
	}
	cmd := s.client(context.Background(), f, traffic.Spec{Kind: traffic.Idle, Conns: conns, Duration: b.duration})
	if c.end, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	s.next += uint64(conns) // the clients beside it use other ports
	c.client = s.net.Client.StartCmd(cmd)
	err = until("the idle connections are open", func() (bool, error) {
		select {
		case <-c.client.Done():
			return false, errors.New(strings.TrimSpace(c.client.Output()))
		default:
			return strings.Contains(c.client.Output(), traffic.Holding), nil
		}
	})
	if err != nil {
		c.client.Kill()
	}
	return c, err
}

// leave closes the connections after one more exchange on each, and waits until
// the proxy, whose usage with them was held, has closed its descriptors.
func (c *crowd) leave(held usage) error {
	c.end.Close()
	if c.client.Wait() != nil {
		return errors.New(strings.TrimSpace(c.client.Output()))
	}
	if c.process == nil {
		return nil
	}
	return until("the proxy has closed its descriptors", func() (bool, error) {
		now, err := c.usage()
		return now.files <= held.files-2*c.conns+8, err // a few may be pooled
	})
}

// beside runs a load for half the duration while the crowd is open.
func (c *crowd) beside(b *bench, f family, kind string, conns int) (loaded, error) {
	r, err := c.load(f, traffic.Spec{Kind: kind, Conns: conns, Duration: b.duration / 2})
	if err != nil {
		err = fmt.Errorf("beside idle connections: %w", err)
	}
	return r, err
}

// idle measures the cost of idle connections in a new proxy, and what is left
// after they close.
func idle(b *bench, s *site, f family) (values, error) {
	if s.proxy == nil {
		return nil, nil
	}
	if _, err := s.restart(); err != nil {
		return nil, err
	}
	c, err := s.crowd(b, f, b.idle)
	if err != nil {
		return nil, err
	}
	defer c.client.Kill()
	held, err := s.usage()
	if err != nil {
		return nil, err
	}
	window := time.Now()
	<-time.After(b.duration) // the CPU of doing nothing needs time to show
	later, err := s.usage()
	if err != nil {
		return nil, err
	}
	cpu := float64(later.cpu-held.cpu) / float64(time.Since(window)) * 100
	r, err := c.beside(b, f, traffic.Exchange, 1)
	if err != nil {
		return nil, err
	}
	if err := c.leave(held); err != nil {
		return nil, err
	}
	<-time.After(b.settle) // a garbage collector may return memory gradually
	after, err := s.usage()
	if err != nil {
		return nil, err
	}
	const mb = 1e6
	return values{
		"idle": held.memory / mb, "idle-kb": (held.memory - c.before.memory) / 1e3 / float64(b.idle),
		"idle-after": (after.memory - c.before.memory) / mb, "idle-cpu": cpu, "idle-rr1-p50": r.Latency.P50,
	}, nil
}

// growth measures whether a connection costs more beside many others: memory of a
// new proxy and of the kernel, the latency of one busy connection, and the rate of
// new ones.
func growth(conns int) func(*bench, *site, family) (values, error) {
	return func(b *bench, s *site, f family) (values, error) {
		if s.proxy != nil {
			if _, err := s.restart(); err != nil {
				return nil, err
			}
		}
		if err := b.forget(); err != nil {
			return nil, err
		}
		kernel, err := kernelMemory(slabDir)
		if err != nil {
			return nil, err
		}
		c, err := s.crowd(b, f, conns)
		if err != nil {
			return nil, err
		}
		defer c.client.Kill()
		grown, err := kernelMemory(slabDir)
		if err != nil {
			return nil, err
		}
		held, err := s.usage() // later: listing descriptors takes the kernel's memory, too
		if err != nil {
			return nil, err
		}
		one, err := c.beside(b, f, traffic.Exchange, 1)
		if err != nil {
			return nil, err
		}
		more, err := c.beside(b, f, traffic.Connect, 32)
		if err != nil {
			return nil, err
		}
		each := func(bytes float64) float64 { return bytes / 1e3 / float64(conns) }
		v := values{
			growthID(conns, "-kernel"): each(grown - kernel),
			growthID(conns, "-p50"):    one.Latency.P50,
			growthID(conns, "-conns"):  float64(more.Count) / more.Seconds / 1e3,
		}
		if s.proxy != nil {
			v[growthID(conns, "-kb")] = each(held.memory - c.before.memory)
		}
		return v, c.leave(held)
	}
}
