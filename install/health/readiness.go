package health

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// readiness returns an error unless the plugin is in place and, as far as is
// known, the kernel supports the node's default mode. text is for a human, some
// lines of printable ASCII.
func (s *Status) readiness() (text string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	err = s.err
	if since := time.Since(s.last); err == nil && since > 3*node.Recheck {
		err = fmt.Errorf("no attempt has finished for %s: an operation on the node's directories hangs", since.Round(time.Second))
	}
	for _, v := range s.verdicts {
		switch {
		case v.Error != "":
			fmt.Fprintf(&b, "kernel: mode %s unknown: %s\n", v.Mode, v.Error)
		case len(v.Lacks(s.guard)) > 0:
			lacks := strings.Join(v.Lacks(s.guard), ", ")
			fmt.Fprintf(&b, "kernel: mode %s lacks %s\n", v.Mode, lacks)
			if v.Mode == s.mode && err == nil {
				err = fmt.Errorf("the kernel lacks what the node's default mode %s needs: %s", v.Mode, lacks)
				if len(v.Missing) == 0 {
					err = fmt.Errorf("%w; without it pods start only with packet-guard %s", err, contract.PacketGuardBestEffort)
				}
			}
		default:
			fmt.Fprintf(&b, "kernel: mode %s works\n", v.Mode)
		}
		if v.Error == "" && v.Guard != "" && v.Guard != contract.GuardNFT {
			fmt.Fprintf(&b, "kernel: mode %s: %s\n", v.Mode, printable.Line(v.Text))
		}
	}
	if s.preflightErr != nil {
		fmt.Fprintf(&b, "kernel: unknown: %s\n", printable.Line(s.preflightErr.Error()))
	}
	for _, n := range NoteLines(s.notes) {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	if err != nil {
		return b.String(), err
	}
	return s.state + "\n" + b.String(), nil
}

// NoteLines are the first printable.MaxItems of notes, each a printable line, and
// a count of the rest: the node's directories may give cause for any number.
func NoteLines(notes []string) (lines []string) {
	for _, n := range notes[:min(len(notes), printable.MaxItems)] {
		lines = append(lines, printable.Line(n))
	}
	if rest := len(notes) - len(lines); rest > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", rest))
	}
	return lines
}

// liveness returns an error for what only a new container can repair.
func (s *Status) liveness() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, node.ErrDeleted) {
		return s.err
	}
	return nil
}
