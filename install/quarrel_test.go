package main

import (
	"testing"
	"time"
)

func TestQuarrel(t *testing.T) {
	var q quarrel
	at := time.Unix(0, 0)
	for i := range quarrelTimes - 1 {
		if note := q.note([]string{"entry missing"}, at.Add(time.Duration(i)*time.Second)); note != "" {
			t.Errorf("after %d times: %s", i+1, note)
		}
	}
	if note := q.note([]string{"binary changed", "entry changed"}, at.Add(5*time.Second)); note != "" {
		t.Errorf("for another reason: %s", note)
	}
	if note := q.note([]string{"entry missing"}, at.Add(6*time.Second)); note == "" {
		t.Error("not noticed")
	}
	if note := q.note(nil, at.Add(7*time.Second)); note == "" {
		t.Error("forgotten at once")
	}
	if note := q.note(nil, at.Add(2*quarrelSpan)); note != "" {
		t.Errorf("not over: %s", note)
	}
}
