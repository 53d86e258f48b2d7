package xtables

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// entry is a struct ipt_entry with a target and nothing else.
func entry(target, data string) []byte {
	const header, size = 112, 112 + 32 + 32
	b := make([]byte, size)
	binary.NativeEndian.PutUint16(b[TargetOffset(false):], header)
	binary.NativeEndian.PutUint16(b[TargetOffset(false)+2:], size)
	copy(b[header+2:], target)
	copy(b[header+32:], data)
	return b
}

// TestParse: the base chain, then a user's, as the kernel lays them out. The tests of
// internal/intercept read what iptables-legacy has made.
func TestParse(t *testing.T) {
	const size = 112 + 32 + 32
	blob := slices.Concat(
		entry("REDIRECT", ""), entry("", ""), // PREROUTING: a rule and the policy
		entry("", ""), // INPUT's policy
		entry("ERROR", "MINE"), entry("DNAT", ""), entry("", ""),
		entry("ERROR", "ERROR"),
	)
	table, err := Parse(false, blob, 0, size)
	if err != nil || len(table.Chains["PREROUTING"]) != 2 || len(table.Chains["MINE"]) != 2 || len(table.Chains) != 2 || table.At[4*size] != "MINE" {
		t.Errorf("%d chains, MINE at %v, %v", len(table.Chains), table.At, err)
	}
	for n := 1; n < size; n++ { // whatever is cut off, nothing is read behind the end
		if _, err := Parse(false, blob[:len(blob)-n], 0, size); !errors.Is(err, errCut) {
			t.Fatalf("%d bytes less: %v", n, err)
		}
	}
	if _, err := Parse(true, make([]byte, 300), 0, 0); !errors.Is(err, errCut) {
		t.Errorf("zeros: %v", err) // they would be read for ever
	}
}
