package repair

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// node is a runtime with one pod, and what looks at the pod find one after the
// other: the last for good.
type node struct {
	finds   []state.Finding
	mends   []state.Finding
	stopped bool // the pod is, when it is asked for after a failed repair

	looks, compares int
	mended          []state.Finding
}

func (n *node) List(context.Context) ([]pods.Pod, error) {
	return []pods.Pod{{ID: "id", Namespace: "ns", Name: "web", Ready: true, Annotations: map[string]string{"large": "x"}}}, nil
}

func (n *node) Sandbox(context.Context, string) (pods.Sandbox, error) {
	return pods.Sandbox{Ready: !n.stopped}, nil
}

func next(list *[]state.Finding) state.Finding {
	f := (*list)[0]
	if len(*list) > 1 {
		*list = (*list)[1:]
	}
	return f
}

func (n *node) Look(_ context.Context, p pods.Pod) state.Finding {
	if p.Annotations == nil {
		panic("a look without the pod's annotations")
	}
	n.looks++
	return next(&n.finds)
}

func (n *node) Compare(context.Context, state.Finding) state.Finding {
	n.compares++
	return next(&n.finds)
}

func (n *node) Mend(_ context.Context, f state.Finding) state.Finding {
	n.mended = append(n.mended, f)
	return next(&n.mends)
}

var (
	right     = state.Finding{State: state.Intercepted, Mode: contract.ModeNAT}
	drifted   = state.Finding{State: state.Drifted, Mode: contract.ModeNAT, Drift: intercept.Drift{"chain spoofed is missing"}}
	cameFirst = state.Finding{State: state.CameFirst, Mode: contract.ModeNAT, Drift: intercept.Drift{"table inet tproxy_cni is missing"}}
	contested = state.Finding{State: state.Contested, Mode: contract.ModeNAT, Drift: intercept.Drift{"table ip nat redirects new connections"}}
	stopped   = state.Finding{State: state.NotReady, Mode: contract.ModeNAT}
	invalid   = state.Finding{State: state.Invalid, Err: errors.New("mode nut")}
	unknown   = state.Finding{State: state.Unknown, Mode: contract.ModeNAT, Err: errors.New("no network namespace")}
)

// TestRounds: what a pod is found to be, look after look, and what the installer
// does about it and says.
func TestRounds(t *testing.T) {
	for _, tt := range []struct {
		name   string
		finds  []state.Finding
		mends  []state.Finding
		gone   bool // when it is asked for after a failed repair
		rounds int

		counted string // the results, in order
		lines   int    // of the log
		looks   int    // at the pod, at most; 0 for any
		end     state.State
	}{
		{"right", []state.Finding{right}, nil, false, 3, "", 0, 0, state.Intercepted},
		{"came first", []state.Finding{cameFirst, cameFirst, right}, []state.Finding{right}, false, 3, "came_first true;", 1, 0, state.Intercepted},
		{"drifts", []state.Finding{right, drifted, drifted, right}, []state.Finding{right}, false, 4, "drifted true;", 1, 0, state.Intercepted},
		{"loses all", []state.Finding{right, cameFirst, cameFirst, right}, []state.Finding{right}, false, 4, "drifted true;", 1, 0, state.Intercepted},
		{"loses all, by default", []state.Finding{right, {State: state.LeftAlone, Drift: cameFirst.Drift}, {State: state.LeftAlone, Drift: cameFirst.Drift}, right}, []state.Finding{right}, false, 4, "drifted true;", 1, 0, state.Intercepted},
		{"an ADD is under way", []state.Finding{cameFirst, right}, nil, false, 3, "", 0, 0, state.Intercepted},
		{"a DEL is under way", []state.Finding{right, drifted, stopped}, nil, false, 3, "", 0, 0, state.NotReady},
		{"vanishes between look and repair", []state.Finding{drifted, drifted, stopped}, []state.Finding{unknown}, true, 3, "", 0, 0, state.NotReady},
		{"its namespace vanishes before the runtime says so", []state.Finding{right, unknown, unknown, stopped}, nil, false, 9, "", 0, 0, state.NotReady},
		{"its namespace vanishes", []state.Finding{right, unknown, stopped}, nil, false, 3, "", 0, 0, state.NotReady},
		{"invalid settings", []state.Finding{invalid}, nil, false, 5, "invalid false;", 1, 1, state.Invalid},
		{"cannot be looked at", []state.Finding{unknown}, nil, false, 100, "unknown false;", 1, 20, state.Unknown},
		{"cannot be cured", []state.Finding{drifted}, []state.Finding{drifted}, false, 100, "drifted false;", 1, 20, state.Drifted},
		{"the kernel refuses", []state.Finding{cameFirst}, []state.Finding{unknown}, false, 100, "came_first false;", 1, 20, state.CameFirst},
		{"is undone each time", []state.Finding{drifted}, []state.Finding{right}, false, 6, strings.Repeat("drifted true;", 6), 4, 0, state.Intercepted},
		{"is undone now and then", append([]state.Finding{right}, drifted, drifted, right, drifted, drifted, right), []state.Finding{right}, false, 6, "drifted true;drifted true;", 2, 0, state.Intercepted},
		{"another interceptor comes", []state.Finding{right, contested}, nil, false, 9, "contested false;", 1, 0, state.Contested},
		{"another interceptor goes, and comes again", []state.Finding{contested, right, contested}, nil, false, 9, "contested false;contested false;", 2, 0, state.Contested},
		{"came first, with another interceptor", []state.Finding{cameFirst, cameFirst, contested}, []state.Finding{contested}, false, 9, "came_first true;contested false;", 2, 0, state.Contested},
		{"drifts, with another interceptor", []state.Finding{contested, drifted, drifted, contested}, []state.Finding{contested}, false, 9, "contested false;drifted true;", 2, 0, state.Contested},
		{"left alone", []state.Finding{{State: state.LeftAlone}}, nil, false, 3, "", 0, 0, state.LeftAlone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the second between two looks takes no time
				n := &node{finds: tt.finds, mends: tt.mends, stopped: tt.gone}
				counted, last := "", state.Count{}
				var log bytes.Buffer
				r := &repairer{runtime: n, looker: n, log: slog.New(slog.NewTextHandler(&log, nil)), Options: Options{
					Done:   func(kind state.State, ok bool) { counted += fmt.Sprint(kind, " ", ok, ";") },
					Looked: func(c state.Count, _ time.Duration) { last = c },
				}}
				for range tt.rounds {
					if err := r.round(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if counted != tt.counted || strings.Count(log.String(), "\n") != tt.lines {
					t.Errorf("counted %q, want %q; %d lines wanted:\n%s", counted, tt.counted, tt.lines, log.String())
				}
				if looks := n.looks + n.compares; tt.looks > 0 && looks > tt.looks {
					t.Errorf("%d looks at it", looks)
				}
				if one := r.known["id"]; one.found.State != tt.end || one.Annotations != nil || len(last[tt.end]) != 1 {
					t.Errorf("it is %s (annotations %v), counted as %v", one.found.State, one.Annotations, last)
				}
			})
		})
	}
}

// TestKeepsSettings: a pod that has lost all is programmed as it was, not for what the
// node's defaults are today.
func TestKeepsSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, today := right, cameFirst
		made.Mode, made.Config = contract.ModeTProxy, intercept.Default(contract.ModeTProxy)
		today.Config = intercept.Default(contract.ModeNAT)
		n := &node{finds: []state.Finding{made, today}, mends: []state.Finding{made}}
		r := &repairer{runtime: n, looker: n, log: slog.New(slog.DiscardHandler), Options: Options{
			Done: func(state.State, bool) {}, Looked: func(state.Count, time.Duration) {},
		}}
		for range 2 {
			_ = r.round(t.Context())
		}
		if len(n.mended) != 1 || n.mended[0].Config.Mode != contract.ModeTProxy || n.mended[0].Mode != contract.ModeTProxy {
			t.Errorf("mended: %+v", n.mended)
		}
	})
}

// TestWords: the log names the pod and what drifted.
func TestWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := &node{finds: []state.Finding{drifted}, mends: []state.Finding{right}}
		r := &repairer{runtime: n, looker: n, log: slog.New(slog.NewTextHandler(&log, nil)), Options: Options{
			Done: func(state.State, bool) {}, Looked: func(state.Count, time.Duration) {},
		}}
		for range 4 {
			_ = r.round(t.Context())
		}
		for _, want := range []string{
			`msg="repaired a pod whose rules differed from the plugin's" pod=ns/web sandbox=id mode=nat drift="chain spoofed is missing"`,
			`level=WARN msg="something changes this pod's rules again after each repair: further repairs of the same in a row are counted, not logged" pod=ns/web`,
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("%q is not in the log:\n%s", want, log.String())
			}
		}
	})
}

// ending is a node on which the installer ends while it looks.
type ending struct {
	*node
	end context.CancelFunc
}

func (e ending) Look(ctx context.Context, _ pods.Pod) state.Finding {
	e.end()
	return state.Finding{State: state.Unknown, Err: ctx.Err()}
}

// TestEndIsNoFailure: a pod that is not looked at any more because the installer ends
// is not one that cannot be repaired.
func TestEndIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := ending{&node{}, cancel}
	r := &repairer{runtime: n, looker: n, log: slog.New(slog.DiscardHandler), Options: Options{
		Done:   func(state.State, bool) { t.Error("a pod was counted") },
		Looked: func(state.Count, time.Duration) { t.Error("a look that was not finished was counted") },
	}}
	if err := r.round(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
