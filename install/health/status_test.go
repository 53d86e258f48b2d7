package health

import (
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestCannotDefaultMode: a node whose kernel lacks something for its default
// mode is not ready and names it.
func TestCannotDefaultMode(t *testing.T) {
	s := New(contract.ModeTProxy, contract.PacketGuardRequired)
	s.Attempt(node.Outcome{}, "in place", nil)
	s.Preflight([]preflight.Verdict{{Mode: contract.ModeNAT, Missing: []string{}}, {Mode: contract.ModeTProxy, Missing: []string{"nft tproxy"}}}, nil)
	if _, err := s.readiness(); err == nil || !strings.Contains(err.Error(), "default mode tproxy needs: nft tproxy") {
		t.Errorf("error is %v", err)
	}
	s.mode = contract.ModeNAT
	text, err := s.readiness()
	if err != nil || !strings.Contains(text, "kernel: mode tproxy lacks nft tproxy") {
		t.Errorf("%q %v", text, err)
	}
}

// TestStuck: an attempt that does not finish makes the installer not ready.
func TestStuck(t *testing.T) {
	s := New(contract.ModeNone, contract.PacketGuardRequired)
	s.Attempt(node.Outcome{}, "in place", nil)
	if _, err := s.readiness(); err != nil {
		t.Error(err)
	}
	s.last = s.last.Add(-4 * node.Recheck)
	if _, err := s.readiness(); err == nil || !strings.Contains(err.Error(), "no attempt has finished for 40s") {
		t.Errorf("error is %v", err)
	}
}
