package repair

import (
	"context"
	"log/slog"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

const (
	// mostPause is how many looks a pod that could not be repaired is left out
	// of at most: after each failure twice as many as before.
	mostPause = 32

	// mostLines is how often in a row the log says the same of a pod's repair.
	mostLines = 3
)

// pod is what is remembered of a pod from one look to the next.
type pod struct {
	pods.Pod // its annotations only while a look goes on: they may be large
	found    state.Finding

	right  bool             // it has been as ADD programs it,
	made   intercept.Config // with this
	failed string           // why the last repair failed, as it was logged; else empty
	doubt  bool             // the look before could not see it
	pause  int              // looks to leave out after the next failure
	again  int              // looks to leave out now
	drift  string           // that was repaired last, and
	row    int              // in how many looks in a row
}

// look looks at a pod and reports whether it is one to repair.
func (r *repairer) look(ctx context.Context, p *pod) bool {
	switch {
	case p.found.Final():
		return false
	case p.again > 0:
		p.again--
		return false
	case p.found.Differs() || p.found.Right() || p.found.State == state.LeftAlone:
		// Neither its settings nor its namespace change: the runtime is asked
		// again only before something is repaired.
		p.see(r.looker.Compare(ctx, p.found))
	default:
		p.see(r.looker.Look(ctx, p.Pod))
	}
	r.tell(p)
	return p.found.Differs() || p.found.State == state.Unknown
}

// tell says what no repair changes.
func (r *repairer) tell(p *pod) {
	switch p.found.State {
	case state.Invalid:
		r.failed(p, p.found.Err)
	case state.Contested:
		r.failed(p, p.found.Drift)
	}
}

// see takes what a look has found.
func (p *pod) see(f state.Finding) {
	if p.right && (f.Differs() || f.State == state.LeftAlone) {
		// Perhaps nothing is left of what was there, by which it would be known.
		f.State, f.Config, f.Mode = state.Drifted, p.made, p.made.Mode
	}
	if p.found = f; f.Right() {
		p.right, p.made, p.pause, p.row = true, f.Config, 0, 0
	}
	if f.State == state.Intercepted {
		p.failed = ""
	}
	p.doubt = p.doubt && f.State == state.Unknown
}

// repair repairs a pod if it still differs, as the runtime has it now: it may have
// been made right or been stopped since the look.
func (r *repairer) repair(ctx context.Context, p *pod) {
	row := p.row
	p.see(r.looker.Look(ctx, p.Pod))
	switch {
	case ctx.Err() != nil: // the installer ends
	case p.found.State == state.Unknown && p.doubt:
		r.fail(p, p.found.Err)
	case p.found.State == state.Unknown:
		// The namespace of a pod that ends may be gone before the runtime says so.
		p.doubt = true
	case p.found.Differs():
		before := p.found
		after := r.looker.Mend(ctx, before)
		switch {
		case after.Right():
			p.see(after)
			p.row = row
			r.repaired(p, before)
			r.tell(p)
		case !r.there(ctx, p):
		case after.Err != nil:
			r.fail(p, after.Err)
		default:
			r.fail(p, after.Drift)
		}
	}
}

// there reports whether the pod has not been stopped meanwhile: then it is no
// fault that it cannot be repaired.
func (r *repairer) there(ctx context.Context, p *pod) bool {
	box, err := r.runtime.Sandbox(ctx, p.ID)
	return ctx.Err() == nil && !pods.Gone(err) && (err != nil || box.Ready)
}

// repaired counts and logs a repair. What another program undoes each time is
// logged a few times.
func (r *repairer) repaired(p *pod, before state.Finding) {
	r.Done(before.State, true)
	log := p.logger(r).With("mode", string(before.Mode))
	if before.State == state.CameFirst {
		log.Info("programmed a pod that started before the plugin")
		return
	}
	drift := printable.Line(before.Drift.Error())
	if drift != p.drift {
		p.drift, p.row = drift, 0
	}
	if p.row++; p.row > mostLines {
		return
	}
	log.Info("repaired a pod whose rules differed from the plugin's", "drift", drift)
	if p.row == mostLines {
		log.Warn("something changes this pod's rules again after each repair: further repairs of the same in a row are counted, not logged")
	}
}

// fail is a repair that failed: the next one waits.
func (r *repairer) fail(p *pod, err error) {
	p.again, p.pause = p.pause, min(max(1, 2*p.pause), mostPause)
	r.failed(p, err)
}

// failed counts and logs why a pod could not be repaired, once for each reason.
func (r *repairer) failed(p *pod, err error) {
	text := printable.Line(err.Error())
	if text == p.failed {
		return
	}
	p.failed = text
	r.Done(p.found.State, false)
	p.logger(r).Error("cannot repair a pod", "err", text)
}

func (p *pod) logger(r *repairer) *slog.Logger {
	return r.log.With("pod", p.String(), "sandbox", printable.Word(p.ID))
}
