package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// values are the results of a measurement by the metrics' ids.
type values map[string]float64

// measurement is one kind of load on a site; it takes about the duration. An error
// means that the variant is not correct, or does not work at all.
type measurement struct {
	name string
	run  func(*bench, *site, family) (values, error)

	// other means that the rules make no difference: borrowers and reduced
	// variants are left out, and in a quick run the second family.
	other bool

	// opinion means a second opinion by another tool, in the first round only.
	opinion bool

	conns int // how many idle connections it opens, if that is fixed
}

// measurements are done in this order, each for all variants before the next.
var measurements = []measurement{
	{name: "correct", run: correct},
	{name: "start", run: startUp, other: true},
	{name: "up1", run: bulk(traffic.Up, 1)},
	{name: "down1", run: bulk(traffic.Down, 1)},
	{name: "up16", run: bulk(traffic.Up, 16)},
	{name: "down16", run: bulk(traffic.Down, 16)},
	{name: "rr1", run: exchange("rr1", 1)},
	{name: "rr64", run: exchange("rr64", 64)},
	{name: "open64", run: openLoop},
	{name: "mixed", run: mixed},
	{name: "conns", run: connects},
	{name: "idle", run: idle, other: true},
	{name: "growth-100", run: growth(100), other: true, conns: 100},
	{name: "growth-1000", run: growth(1000), other: true, conns: 1000},
	{name: "growth-9000", run: growth(9000), other: true, conns: 9000},
	{name: "iperf3", run: iperf3, other: true, opinion: true},
	{name: "wrk", run: wrk, other: true, opinion: true},
}

// wanted reports whether the measurement is done with the site in this round.
func (m measurement) wanted(b *bench, s *site, f family, round int) bool {
	switch {
	case s.onlyIPv4 && f.name != v4.name,
		m.other && (s.role == borrower || s.role == reduced),
		m.other && b.quick && f.name != b.families[0].name,
		m.opinion && round > 0,
		m.conns > b.idle:
		return false
	}
	return b.measure.MatchString(m.name)
}

// correct compares each byte that comes back from an echo, with both directions
// busy at once and over half-closed connections.
func correct(b *bench, s *site, f family) (values, error) {
	_, err := s.load(f, traffic.Spec{Kind: traffic.Echo, Conns: 25, Duration: b.duration})
	return nil, err
}

func bulk(direction string, streams int) func(*bench, *site, family) (values, error) {
	id := fmt.Sprint(direction, streams)
	return func(b *bench, s *site, f family) (values, error) {
		r, err := s.load(f, traffic.Spec{Kind: direction, Conns: streams, Duration: b.duration})
		gb := float64(r.Bytes) / 1e9
		return s.withProxy(values{id: gb * 8 / r.Seconds, id + "-cpu": r.CPU / gb}, id, r.proxyCPU/gb), err
	}
}

func exchange(id string, conns int) func(*bench, *site, family) (values, error) {
	return func(b *bench, s *site, f family) (values, error) {
		r, err := s.load(f, traffic.Spec{Kind: traffic.Exchange, Conns: conns, Duration: b.duration})
		return s.latencies(id, r), err
	}
}

func (s *site) latencies(id string, r loaded) values {
	n := float64(r.Count)
	return s.withProxy(values{
		id: n / r.Seconds / 1e3, id + "-cpu": r.CPU / n * 1e6,
		id + "-p50": r.Latency.P50, id + "-p90": r.Latency.P90, id + "-p99": r.Latency.P99, id + "-p999": r.Latency.P999,
	}, id, r.proxyCPU/n*1e6)
}

// withProxy adds the proxy's share of the CPU time, if there is a proxy.
func (s *site) withProxy(v values, id string, cpu float64) values {
	if s.process != nil {
		v[id+"-proxy"] = cpu
	}
	return v
}

// openLoop sends all variants requests at the same rate, which saturates none, and
// at fixed times: a slow variant does not get fewer.
func openLoop(b *bench, s *site, f family) (values, error) {
	rate, err := b.openRate()
	if err != nil {
		return nil, err
	}
	r, err := s.load(f, traffic.Spec{Kind: traffic.Exchange, Conns: 64, Rate: rate, Duration: b.duration})
	return s.latencies("open64", r), err
}

// mixed measures how long requests wait beside one bulk stream.
func mixed(b *bench, s *site, f family) (values, error) {
	bulk := s.start(f, traffic.Spec{Kind: traffic.Up, Conns: 1, Duration: b.duration + 200*time.Millisecond})
	defer bulk.Kill()
	r, err := s.load(f, traffic.Spec{Kind: traffic.Exchange, Conns: 64, Duration: b.duration})
	if err != nil {
		return nil, err
	}
	if bulk.Wait() != nil {
		return nil, errors.New(strings.TrimSpace(bulk.Output()))
	}
	return values{"mixed-p99": r.Latency.P99}, nil
}

func connects(b *bench, s *site, f family) (values, error) {
	r, err := s.load(f, traffic.Spec{Kind: traffic.Connect, Conns: 32, Duration: b.duration})
	return s.latencies("conns", r), err
}

// startUp is the time from exec until the proxy listens or, where it was passed the
// listener, has its workers.
func startUp(_ *bench, s *site, _ family) (values, error) {
	if s.proxy == nil {
		return nil, nil
	}
	took, err := s.restart()
	return values{"start": float64(took.Microseconds()) / 1e3}, err
}

// restart replaces the proxy by a new one and returns how long that took to become
// ready.
func (s *site) restart() (took time.Duration, err error) {
	l, err := newListeners(s.net.Pod)
	if err != nil {
		return 0, err
	}
	defer l.close()
	_ = s.process.Stop() // SIGTERM is an error to some
	err = until("the port is free", func() (bool, error) {
		on, err := l.on(contract.ProxyPort)
		return !on, err
	})
	if err != nil {
		return 0, err
	}
	next := s.proxy(s)
	ready := func() (bool, error) { return l.on(contract.ProxyPort) }
	if next.files != nil {
		ready = func() (bool, error) { return len(children(s.process.Pid())) == next.workers, nil }
	}
	s.process = next.run(s)
	exe := fmt.Sprintf("/proc/%d/exe", s.process.Pid())
	err = until("setpriv has become the proxy", func() (bool, error) {
		path, err := os.Readlink(exe)
		return filepath.Base(path) != "setpriv", err
	})
	began := time.Now()
	if err == nil {
		err = until("the proxy is ready", ready)
	}
	return time.Since(began), err
}

// start starts a client that runs beside another.
func (s *site) start(f family, spec traffic.Spec) *lab.Proc {
	cmd := s.client(context.Background(), f, spec)
	s.next += uint64(spec.Conns)
	return s.net.Client.StartCmd(cmd)
}

// until waits for a state. Unlike lab.Eventually it returns an error, which fails
// the measurement and not the benchmark.
func until(what string, check func() (bool, error)) error {
	for deadline := time.Now().Add(lab.Patience); ; <-time.After(100 * time.Microsecond) {
		ok, err := check()
		if ok && err == nil {
			return nil
		}
		if err != nil || time.Now().After(deadline) {
			return fmt.Errorf("waiting until %s: %w", what, errors.Join(err, context.DeadlineExceeded))
		}
	}
}
