package results

import (
	"fmt"
	"os"
	"strings"
)

// Insert puts a text into a page, in place of what is between two lines of it.
func Insert(page, begin, end, text string) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, _, after, err := Split(string(old), begin, end)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(before+text+after), 0o644)
}

// Split returns what is between two lines of a page, and what is around it with the
// lines. Both lines end with a newline.
func Split(page, begin, end string) (before, text, after string, err error) {
	before, rest, ok := strings.Cut(page, begin)
	text, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", "", fmt.Errorf("no lines %q and %q", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin, text, end + after, nil
}
