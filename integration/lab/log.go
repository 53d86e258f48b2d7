package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

var snakeCase = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// SnakeCaseKeys holds a program's JSON log to what log pipelines rely on: keys are
// snake_case, and a value is a scalar, so that an address is a string.
func SnakeCaseKeys(t testing.TB, log string) {
	t.Helper()
	if err := checkLog(log); err != nil {
		t.Error(err)
	}
}

func checkLog(log string) error {
	var faults []error
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, line := range lines {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			faults = append(faults, fmt.Errorf("not a line of JSON: %q: %w", line, err))
			continue
		}
		for key, value := range record {
			if !snakeCase.MatchString(key) {
				faults = append(faults, fmt.Errorf("key %q is not snake_case: %s", key, line))
			}
			switch value.(type) {
			case map[string]any, []any:
				faults = append(faults, fmt.Errorf("the value of %q is not a scalar: %s", key, line))
			}
		}
	}
	return errors.Join(faults...)
}
