package main

import (
	"fmt"
	"os"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// What a page has around the report.
const (
	pageBegin = "<!-- soak: what follows is written by make soak-page -->\n"
	pageEnd   = "<!-- soak: end -->\n"
)

// insert puts the report into a page between its markers.
func insert(page, report string) error {
	text, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("no report of a run: %w", err)
	}
	return results.Insert(page, pageBegin, pageEnd, string(text))
}
