package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// Pauses before the next attempt.
const (
	afterChange = 50 * time.Millisecond  // somebody who writes several files is through, then
	afterPatch  = 500 * time.Millisecond // somebody who takes the entry out again and again gets no endless loop
	afterError  = 500 * time.Millisecond // and twice as long after each further one, up to recheck
)

func newNode(w world, c config) (*node, error) {
	_, dir, err := self()
	if err != nil {
		return nil, err
	}
	n := &node{
		disk: disk{w.before}, confDir: c.confDir, morePluginDirs: c.morePluginDirs, timer: cmp.Or(w.timer, recheck),
		plugin: binary{source: filepath.Join(dir, contract.PluginType), dir: c.binDir},
	}
	n.entry, err = settings.NewEntry(c.settings)
	return n, err
}

// install keeps the plugin on the node until ctx ends, and then leaves it
// there: the end of this process is a restart, an upgrade or a reboot, after
// which pods go on being started. To take the plugin out is uninstall's work.
func install(ctx context.Context, log *slog.Logger, w world, c config) error {
	n, err := newNode(w, c)
	if err != nil {
		return err
	}
	s := newStatus(c.mode())
	work := func() (outcome, string, error) {
		o, err := n.install(ctx)
		return o, fmt.Sprintf("entry in %s, plugin %s in %s",
			filepath.Join(c.confDir, o.list), version.String(), n.plugin.path()), err
	}
	if c.once {
		return attempt(log, s, work)
	}
	log.Info("starting", "version", version.String(), "entry", string(n.entry), "confDir", c.confDir, "binDir", c.binDir)
	go s.serve(ctx, log, c.listen)
	if c.preflight {
		go preflight(ctx, log, s)
	}
	patched := make(chan struct{}, 1)
	if c.repair {
		go repairLoop(ctx, log, s, c, n.entry, patched)
	}
	keep(ctx, log, s, n, work, patched)
	log.Info("ending; the plugin stays on this node")
	return nil
}

// uninstall takes the plugin out. Without --once it stays and keeps it out, so
// that it can run as a DaemonSet, which has no other way to run once on every
// node.
func uninstall(ctx context.Context, log *slog.Logger, w world, c config) error {
	n, err := newNode(w, c)
	if err != nil {
		return err
	}
	s := newStatus(contract.ModeNone)
	work := func() (outcome, string, error) {
		o, err := n.uninstall(ctx, c.keepBinary)
		return o, "uninstalled", err
	}
	if c.once {
		return attempt(log, s, work)
	}
	go s.serve(ctx, log, c.listen)
	keep(ctx, log, s, n, work, make(chan struct{}, 1))
	return nil
}

// keep attempts work whenever something changes and at least whenever the timer
// says so, until ctx ends.
func keep(ctx context.Context, log *slog.Logger, s *status, n *node, work func() (outcome, string, error), patched chan<- struct{}) {
	changed := watch(ctx, log, n.timer, n.confDir, n.plugin.dir)
	delay := afterError
	var last time.Time // of a patch
	var q quarrel
	for ctx.Err() == nil {
		o, done, err := work()
		if note := q.note(o.patches, time.Now()); note != "" {
			o.notes = append(o.notes, note)
		}
		report(log, s, o, done, err)
		if len(o.patches) > 0 {
			last = time.Now()
			select {
			case patched <- struct{}{}:
			default:
			}
		}
		var t trouble
		switch {
		case err == nil:
			wait(ctx, changed, n.timer)
			delay = afterError
		case errors.As(err, &t) && t.kind == atWaiting:
			wait(ctx, changed, n.timer)
		default:
			// The attempt itself changes the directories: to follow
			// notifications now would be to try without a pause.
			wait(ctx, nil, delay)
			delay = min(2*delay, recheck)
		}
		quiet := afterChange
		if time.Since(last) < 10*afterPatch {
			quiet = afterPatch
		}
		wait(ctx, nil, quiet)
	}
}

// attempt is one that must succeed.
func attempt(log *slog.Logger, s *status, work func() (outcome, string, error)) error {
	o, done, err := work()
	report(log, s, o, done, err)
	return err
}

func report(log *slog.Logger, s *status, o outcome, done string, err error) {
	changed := s.set(o, done, err)
	for _, why := range o.patches {
		log.Info("patched", "reason", why, "list", o.list)
	}
	if !changed || errors.Is(err, context.Canceled) {
		return
	}
	for _, n := range o.notes {
		log.Warn("found", "note", n)
	}
	if err != nil {
		log.Error("not ready", "err", err)
	} else {
		log.Info("ready", "state", done)
	}
}
