package results

import (
	"fmt"
	"testing"
)

// logger keeps what a test logs.
type logger struct{ text string }

func (l *logger) Helper() {}

func (l *logger) Logf(format string, args ...any) { l.text = fmt.Sprintf(format, args...) }

// TestFault: what a test reports is found in its log.
func TestFault(t *testing.T) {
	want := Fault{Name: `accept4: "EMFILE"`, Injected: 7, Lost: 3, Of: 80, What: "connections"}
	var l logger
	want.Report(&l)
	got, found, err := ReadFault("    some_test.go:12: " + l.text)
	if !found || err != nil || got != want || got.Cost() != "3 of 80 connections" {
		t.Errorf("%+v, %t, %v: %s", got, found, err, got.Cost())
	}
	if _, found, err := ReadFault("=== RUN   TestFault"); found || err != nil {
		t.Errorf("a fault in a line without one: %v", err)
	}
	if _, found, err := ReadFault("fault: {"); !found || err == nil {
		t.Errorf("no error for a line that is cut short: %t", found)
	}
	if want.Lost = 0; want.Cost() != "none of 80 connections" {
		t.Error(want.Cost())
	}
}
