package node_test

import (
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/node"
)

func TestFlapping(t *testing.T) {
	var q node.Flapping
	at := time.Unix(0, 0)
	for i := range node.FlappingTimes - 1 {
		if note := q.Note([]string{"entry missing"}, at.Add(time.Duration(i)*time.Second)); note != "" {
			t.Errorf("after %d times: %s", i+1, note)
		}
	}
	if note := q.Note([]string{"binary changed", "entry changed"}, at.Add(5*time.Second)); note != "" {
		t.Errorf("for another reason: %s", note)
	}
	if note := q.Note([]string{"entry missing"}, at.Add(6*time.Second)); note == "" {
		t.Error("not noticed")
	}
	if note := q.Note(nil, at.Add(7*time.Second)); note == "" {
		t.Error("forgotten at once")
	}
	if note := q.Note(nil, at.Add(2*node.FlappingSpan)); note != "" {
		t.Errorf("not over: %s", note)
	}
}
