// Package lacks makes a kernel look older than it is, for tests: what a kernel
// without a feature gets can then be tested on any. No program sets it, and nothing
// that a user can say does: a test assigns it, or links a program with
//
//	-ldflags "-X github.com/tproxy-cni/tproxy-cni/internal/lacks.Features=egress"
package lacks

import (
	"slices"
	"strings"
)

// The features.
const (
	Egress = "egress" // nftables' netdev egress hook
	TC     = "tc"     // tc's clsact qdisc
)

// Features are those that the kernel is to be taken to lack, with commas between
// them.
var Features string

// This reports whether the kernel is to be taken to lack a feature.
func This(feature string) bool {
	return Features != "" && slices.Contains(strings.Split(Features, ","), feature)
}
