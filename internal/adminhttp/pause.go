package adminhttp

import "context"

// pause lets one goroutine make another, a loop, wait between two of its rounds.
type pause struct {
	asked chan *rest // room for one
	now   *rest      // the asker's
}

// rest is one time in which the loop waits.
type rest struct{ taken, over chan struct{} }

func newPause() pause { return pause{asked: make(chan *rest, 1)} }

// ask returns true once the loop waits, until end is called, and false if ctx ends first:
// then the loop goes on as if it had not been asked. wake makes the loop come round.
func (p *pause) ask(ctx context.Context, wake func()) bool {
	select {
	case <-p.asked: // of one that has given up
	default:
	}
	p.now = &rest{make(chan struct{}), make(chan struct{})}
	p.asked <- p.now
	wake()
	select {
	case <-p.now.taken:
		return true
	case <-ctx.Done():
		p.end()
		return false
	}
}

// take waits if it is asked to; the loop calls it.
func (p *pause) take(ctx context.Context) {
	select {
	case r := <-p.asked:
		close(r.taken)
		select {
		case <-r.over:
		case <-ctx.Done():
		}
	default:
	}
}

// end lets the loop go on.
func (p *pause) end() { close(p.now.over) }
