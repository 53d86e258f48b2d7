package results

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Fault is what a test has injected, and what that cost.
type Fault struct {
	Name     string `json:"name"`
	Injected int    `json:"injected"` // how often
	Lost     int    `json:"lost"`
	Of       int    `json:"of"`
	What     string `json:"what"` // was lost: "connections"
}

// faultMark begins a fault in the log of a test.
const faultMark = "fault: "

// Report logs a fault for `make faults`.
func (f Fault) Report(t interface {
	Helper()
	Logf(format string, args ...any)
},
) {
	t.Helper()
	text, _ := json.Marshal(f) // fails for no such type
	t.Logf("%s%s", faultMark, text)
}

// ReadFault finds a fault in a line of `go test -v`.
func ReadFault(line string) (f Fault, found bool, err error) {
	_, text, found := strings.Cut(line, faultMark+"{")
	if !found {
		return f, false, nil
	}
	if err := json.Unmarshal([]byte("{"+text), &f); err != nil {
		return f, true, fmt.Errorf("%q: %w", line, err)
	}
	return f, true, nil
}

// Cost is what was lost: "3 of 80 connections".
func (f Fault) Cost() string {
	lost := "none"
	if f.Lost > 0 {
		lost = fmt.Sprint(f.Lost)
	}
	return fmt.Sprintf("%s of %d %s", lost, f.Of, f.What)
}
