package main

import (
	"fmt"
	"os"
	"strings"
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
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, _, after, err := split(string(old))
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(before+string(text)+after), 0o644)
}

// split returns a page's report and what is around it, markers included.
func split(page string) (before, report, after string, err error) {
	before, rest, ok := strings.Cut(page, pageBegin)
	report, after, ok2 := strings.Cut(rest, pageEnd)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("no lines %q and %q", strings.TrimSpace(pageBegin), strings.TrimSpace(pageEnd))
	}
	return before + pageBegin, report, pageEnd + after, nil
}
