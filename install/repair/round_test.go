package repair

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
)

// slow is a node with three pods; the look at the second takes all of a round's time.
type slow struct {
	*node
	looked string // the pods, in order
}

func (s *slow) List(context.Context) (list []pods.Pod, err error) {
	for _, id := range []string{"a", "b", "c"} {
		list = append(list, pods.Pod{ID: id, Name: id, Ready: true, Annotations: map[string]string{"large": "x"}})
	}
	return list, nil
}

func (s *slow) Look(ctx context.Context, p pods.Pod) state.Finding {
	if s.looked += p.ID; p.ID == "b" {
		<-ctx.Done()
		return state.Finding{State: state.Unknown, Err: ctx.Err()}
	}
	return state.Finding{State: state.NotReady}
}

// TestRoundTooLong: a round that has no time left says so, once, keeps what it has
// found, and leaves no pod out for good.
func TestRoundTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &slow{node: &node{}}
		r := &repairer{runtime: s, looker: s, log: slog.New(slog.NewTextHandler(&log, nil)), Options: Options{
			Done: func(state.State, bool) { t.Error("a pod was counted") }, Looked: func(state.Count, time.Duration) {},
		}}
		logged := ""
		for i, want := range []struct{ looked, err string }{
			{"ab", "2 of 3 looks within 1m0s"},
			{"cab", "0 of 1 repairs within 1m0s"},
			{"b", "1 of 3 looks within 1m0s"},
		} {
			s.looked = ""
			err := r.round(t.Context())
			var late unfinished
			if !errors.As(err, &late) || late.Error() != want.err || s.looked != want.looked {
				t.Errorf("round %d: %v, looked at %s; want %s, %s", i+1, err, s.looked, want.err, want.looked)
			}
			logged = r.report(err, logged)
			for id, one := range r.known {
				if one.Annotations != nil {
					t.Errorf("the annotations of %s are kept", id)
				}
			}
		}
		if len(r.known) != 3 {
			t.Errorf("%d pods are known", len(r.known))
		}
		const want = `level=ERROR msg="repair: a look at all pods took too long, the next one begins where it ended" err="2 of 3 looks within 1m0s"` + "\n"
		if text := log.String(); !strings.HasSuffix(text, want) || strings.Count(text, "\n") != 1 {
			t.Errorf("the log says\n%s", text)
		}
	})
}
