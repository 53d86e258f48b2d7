package intercept

import (
	"errors"
	"fmt"
	"slices"
)

// step is one change and how to take it back. Its error names it.
type step struct{ do, undo func() error }

// undo takes steps back, the last first; the failed one too, which may be half
// done.
func undo(steps []step) error {
	var errs []error
	for _, s := range slices.Backward(steps) {
		if err := s.undo(); err != nil {
			errs = append(errs, fmt.Errorf("undo: %w", err))
		}
	}
	return errors.Join(errs...)
}

// wrap says what failed, if anything did.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
