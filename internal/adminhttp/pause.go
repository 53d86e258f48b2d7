package adminhttp

import "context"

// pause lets one goroutine make another, a loop, wait between two of its rounds.
type pause struct{ asked, taken, over chan struct{} }

func newPause() pause {
	return pause{make(chan struct{}, 1), make(chan struct{}), make(chan struct{})}
}

// ask returns true once the loop waits, until end is called, and false if ctx ends. wake
// makes the loop come round.
func (p *pause) ask(ctx context.Context, wake func()) bool {
	p.asked <- struct{}{}
	wake()
	select {
	case p.taken <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// take waits if it is asked to; the loop calls it.
func (p *pause) take(ctx context.Context) {
	select {
	case <-p.asked:
	default:
		return
	}
	for _, c := range []chan struct{}{p.taken, p.over} {
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// end lets the loop go on.
func (p *pause) end() { p.over <- struct{}{} }
