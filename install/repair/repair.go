// Package repair keeps pods that ask for interception as ADD programs them: those
// that were started without the plugin, and those whose rules, routes or sysctls
// something has changed since.
package repair

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

const (
	// timeout is how long one look at all pods may take.
	timeout = time.Minute

	// confirm is how long a pod must differ before it is repaired: what an ADD or
	// a DEL of the pod does meanwhile, which takes some 10 ms, is not undone.
	confirm = time.Second
)

// Options say where the pods are and what they should be.
type Options struct {
	Socket    string          // of the container runtime, an absolute path
	Entry     []byte          // the plugin's entry in the conflist, which has the node's defaults
	NodeNetNS string          // path of the network namespace that must never be programmed
	Every     time.Duration   // from the end of a look at all pods to the next
	Now       <-chan struct{} // asks for a look at once; may be nil

	// Done is called for each pod that was repaired, or that could not be: once for
	// each reason. kind is what it was: state.CameFirst, Drifted, Contested,
	// Invalid or Unknown.
	Done func(kind state.State, fixed bool)

	// Looked is called after each look at all pods, with the time that it took, repairs
	// left out.
	Looked func(state.Count, time.Duration)
}

// Run looks at the pods at start, whenever o.Now asks for it, because pods may
// have been started before the plugin was in the chain, and every o.Every, until
// ctx ends. It repairs a pod that differs in two looks, a second apart. What goes
// wrong with a pod or the runtime is logged once and tried again. The error says
// that no client can be made for o.Socket. It needs access to the socket, and
// CAP_SYS_ADMIN and CAP_NET_ADMIN to look at a pod and to program it.
func Run(ctx context.Context, log *slog.Logger, o Options) error {
	runtime, err := pods.Dial(o.Socket)
	if err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	defer runtime.Close()
	r := newRepairer(log, o, runtime)
	logged := ""
	for ctx.Err() == nil {
		if err := r.round(ctx); err == nil {
			logged = ""
		} else if ctx.Err() == nil {
			logged = r.report(err, logged)
		}
		wait(ctx, o.Now, o.Every)
	}
	return nil
}

const tookTooLong = "repair: a look at all pods took too long, the next one begins where it ended"

// report logs why a look at all pods has not ended, unless logged is the same, and
// returns it.
func (r *repairer) report(err error, logged string) string {
	var late unfinished
	if errors.As(err, &late) {
		if logged != tookTooLong {
			r.log.Error(tookTooLong, "err", err.Error())
		}
		return tookTooLong
	}
	if err.Error() != logged {
		r.log.Error("repair: cannot list the runtime's pods", "socket", r.Socket, "err", printable.Line(err.Error()))
	}
	return err.Error()
}

// unfinished is how far a look at all pods came within timeout.
type unfinished struct {
	what     string // "looks" or "repairs"
	done, of int
}

func (u unfinished) Error() string {
	return fmt.Sprintf("%d of %d %s within %v", u.done, u.of, u.what, timeout)
}

// wait returns after d, when ctx ends, or when wake receives.
func wait(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// runtime is what package repair needs of a pods.Runtime.
type runtime interface {
	state.Source
	List(context.Context) ([]pods.Pod, error)
}

type repairer struct {
	Options
	runtime runtime
	log     *slog.Logger
	looker  looker
	known   map[string]*pod // by the sandbox's id
	from    string          // the id of the pod with which the next look at all begins, if it is still there
}

// looker is a *state.Looker.
type looker interface {
	Look(context.Context, pods.Pod) state.Finding
	Compare(context.Context, state.Finding) state.Finding
	Mend(context.Context, state.Finding) state.Finding
}

func newRepairer(log *slog.Logger, o Options, source runtime) *repairer {
	return &repairer{Options: o, runtime: source, log: log, looker: &state.Looker{
		Runtime: source, Entry: o.Entry, NodeNetNS: o.NodeNetNS,
	}}
}

// round looks at every pod once, and repairs. Its error is the runtime's, ctx's, or an
// unfinished: then the pods that were not reached are the first of the next round.
func (r *repairer) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := r.runtime.List(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	now := make(map[string]*pod, len(r.known))
	defer func() {
		for _, one := range now {
			one.Annotations = nil
		}
	}()
	var suspects []*pod
	if at := slices.IndexFunc(list, func(p pods.Pod) bool { return p.ID == r.from }); at > 0 {
		list = slices.Concat(list[at:], list[:at])
	}
	for i, p := range list {
		if ctx.Err() != nil {
			maps.Copy(now, r.known) // what was known stays
			r.known = now
			return r.ended(ctx, p.ID, unfinished{"looks", i, len(list)})
		}
		one := r.known[p.ID]
		if one == nil {
			one = &pod{}
		}
		one.Pod, now[p.ID] = p, one
		if r.look(ctx, one) {
			suspects = append(suspects, one)
		}
	}
	r.known = now // forgets those that are gone
	took := time.Since(began)
	if len(suspects) > 0 {
		wait(ctx, nil, confirm)
	}
	for i, one := range suspects {
		if ctx.Err() != nil {
			return r.ended(ctx, one.ID, unfinished{"repairs", i, len(suspects)})
		}
		r.repair(ctx, one)
	}
	r.from = ""
	r.Looked(r.count(), took)
	return nil
}

// ended is the error of a round that ctx has ended before the pod with that id.
func (r *repairer) ended(ctx context.Context, id string, at unfinished) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err() // the installer ends
	}
	r.from = id
	return at
}

func (r *repairer) count() state.Count {
	c := state.Count{}
	for _, one := range r.known {
		if c[one.found.State] == nil {
			c[one.found.State] = map[contract.Mode]int{}
		}
		c[one.found.State][one.found.Mode]++
	}
	return c
}
