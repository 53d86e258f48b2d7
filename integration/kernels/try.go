package main

import (
	"slices"
	"strings"
	"time"
)

// bootFunc runs steps in a machine of that name and returns what it wrote.
type bootFunc func(name string, steps []step) (log string, err error)

// fewEnough is how many tests of a machine may be run again: when more fail it is no
// accident.
const fewEnough = 3

// try runs half of the tests. With secondTry the tests that failed are run once more,
// one by one, in a fresh machine.
func try(name string, steps []step, secondTry bool, boot bootFunc) (h half) {
	h = once(name, steps, boot)
	if again := h.again(steps); secondTry && len(again) > 0 && len(again) <= fewEnough {
		second := once(name+"-again", again, boot)
		h.second = &second
	}
	return h
}

// once runs steps in one machine.
func once(name string, steps []step, boot bootFunc) (h half) {
	h.name = name
	start := time.Now()
	log, err := boot(name, steps)
	h.took = time.Since(start)
	h.sections, h.uname, h.err = parse(log)
	if err != nil {
		h.err = err
	}
	for i := range h.sections {
		if i < len(steps) && steps[i].test != "" {
			h.sections[i].count()
		}
	}
	return h
}

// again are steps for the tests that failed. There are none if anything else failed,
// too: then the rest of the tests did not run.
func (h half) again(steps []step) (again []step) {
	if h.err != nil {
		return nil
	}
	for i, s := range h.sections {
		if s.status == "0" {
			continue
		}
		tests := s.failedTests()
		if len(tests) == 0 || !s.ended() {
			return nil
		}
		for _, test := range tests {
			again = append(again, steps[i].alone(test))
		}
	}
	return again
}

// failedTests are the tests that failed, each once, without the names of their parts.
func (s section) failedTests() (tests []string) {
	for _, name := range s.tally.failed {
		test, _, _ := strings.Cut(name, "/")
		if !slices.Contains(tests, test) {
			tests = append(tests, test)
		}
	}
	return tests
}

// ended reports whether the test binary came to its end: after a panic or its time
// limit the tests that follow did not run.
func (s section) ended() bool {
	return strings.Contains(s.text, "\nFAIL\n") || strings.Contains(s.text, "\x16FAIL\n")
}

// redeemed reports whether all tests of a section that failed passed the second time.
func (h half) redeemed(s section) bool {
	if h.second == nil || h.second.err != nil {
		return false
	}
	return !slices.ContainsFunc(s.failedTests(), func(test string) bool {
		return !slices.ContainsFunc(h.second.sections, func(again section) bool {
			return again.name == s.name+" "+test && again.status == "0" && again.tally.tests == 1
		})
	})
}
