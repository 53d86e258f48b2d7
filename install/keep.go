package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Pauses before the next attempt.
const (
	afterChange = 50 * time.Millisecond  // for a program that writes several files one after the other
	afterPatch  = 500 * time.Millisecond // keeps a program that removes the entry each time from causing a busy loop
	afterError  = 500 * time.Millisecond // doubled after each further error, up to node.Recheck
)

// supervise runs the tasks until all have returned. When one returns an error,
// the context of the others ends, and that error is returned.
func supervise(ctx context.Context, tasks ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range tasks {
		g.Go(func() error { return task(ctx) })
	}
	return g.Wait()
}

// work is one attempt to make the node right. done says in words what is in place
// if err is nil.
type work func(context.Context) (o node.Outcome, done string, err error)

// keeper attempts work whenever something changes on the node, and at least as
// often as the timer says.
type keeper struct {
	log     *slog.Logger
	status  *health.Status
	work    work
	timer   time.Duration
	watch   *node.Watcher
	patched chan struct{} // receives a value after an attempt that changed the node
}

func newKeeper(log *slog.Logger, w world, n *node.Node, s *health.Status, work work) *keeper {
	timer := cmp.Or(w.timer, node.Recheck)
	return &keeper{
		log: log, status: s, work: work, timer: timer,
		watch: node.NewWatcher(log, timer, n.ConfDir, n.Binary.Dir), patched: make(chan struct{}, 1),
	}
}

// run attempts until ctx ends, and returns nil. Errors of attempts are reported,
// and tried again.
func (k *keeper) run(ctx context.Context) error {
	delay := afterError
	var last time.Time // of a patch
	var flapping node.Flapping
	for ctx.Err() == nil {
		o, done, err := k.work(ctx)
		if note := flapping.Note(o.Patches, time.Now()); note != "" {
			o.Notes = append(o.Notes, note)
		}
		report(k.log, k.status, o, done, err)
		if len(o.Patches) > 0 {
			last = time.Now()
			select {
			case k.patched <- struct{}{}:
			default:
			}
		}
		var f node.Failure
		switch {
		case err == nil:
			wait(ctx, k.watch.Changed, k.timer)
			delay = afterError
		case errors.As(err, &f) && f.Kind == node.Waiting:
			wait(ctx, k.watch.Changed, k.timer)
		default:
			// The attempt itself changes the directories: following the
			// notifications now would mean trying again without a pause.
			wait(ctx, nil, delay)
			delay = min(2*delay, node.Recheck)
		}
		pause := afterChange
		if time.Since(last) < 10*afterPatch {
			pause = afterPatch
		}
		wait(ctx, nil, pause)
	}
	return nil
}

// wait returns after d, when ctx ends, or when wake receives.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-wake:
	case <-time.After(d):
	}
}

// attempt is a single attempt, whose error is the command's.
func attempt(ctx context.Context, log *slog.Logger, s *health.Status, work work) error {
	o, done, err := work(ctx)
	report(log, s, o, done, err)
	return err
}

// report logs the outcome of an attempt if it differs from the one before, and
// each change made on the node.
func report(log *slog.Logger, s *health.Status, o node.Outcome, done string, err error) {
	changed := s.Attempt(o, done, err)
	for _, why := range o.Patches {
		log.Info("patched", "reason", why, "list", printable.Line(o.List))
	}
	if !changed || errors.Is(err, context.Canceled) {
		return
	}
	for _, n := range health.NoteLines(o.Notes) {
		log.Warn("CNI config warning", "note", n)
	}
	if err != nil {
		log.Error("not ready", "err", printable.Line(err.Error()))
	} else {
		log.Info("ready", "state", done)
	}
}
