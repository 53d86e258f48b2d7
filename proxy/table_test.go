package main

import (
	"testing"
	"time"
)

// TestGiveMemoryBack: memory is given back when a crowd has come, when it has doubled
// since, and, a second later at the earliest, when most of many have gone.
func TestGiveMemoryBack(t *testing.T) {
	begin := time.Now()
	l := &table{slots: make([]slot, 64), free: []*conn{{}}}
	for _, step := range []struct {
		at    time.Duration
		conns int
		gives bool
		due   time.Duration // 0: not before something happens
	}{
		{0, crowd - 1, false, 0},
		{0, crowd, true, 0},
		{0, 2*crowd - 1, false, 0},
		{0, 2 * crowd, true, 0},
		{0, 2*crowd/8 + 1, false, 0},
		{0, 2 * crowd / 8, false, gaveBackPause},
		{gaveBackPause, 1, true, 0},
		{3 * gaveBackPause, 0, false, 0},
		{3 * gaveBackPause, manyConns - 1, false, 0},
		{3 * gaveBackPause, 0, false, 0},
		{3 * gaveBackPause, manyConns, false, 0},
		{4 * gaveBackPause, 0, true, 0},
	} {
		now := begin.Add(step.at)
		l.count = step.conns
		l.gaveBack.most = max(l.gaveBack.most, l.count)
		before := l.gaveBack
		due := l.giveMemoryBack(now)
		if gave := l.gaveBack != before; gave != step.gives {
			t.Errorf("%d connections at %v: gave back is %v", step.conns, step.at, gave)
		}
		if want := begin.Add(step.due); step.due == 0 && !due.IsZero() || step.due != 0 && !due.Equal(want) {
			t.Errorf("%d connections at %v: due at %v", step.conns, step.at, due.Sub(begin))
		}
		if kept := l.slots != nil && l.free != nil; kept == (step.gives && step.conns == 0) {
			t.Errorf("%d connections at %v: tables kept is %v", step.conns, step.at, kept)
		}
	}
}
