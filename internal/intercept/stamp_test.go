package intercept

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// TestStamp: what another version has programmed is no drift where nothing differs; where
// something does, CHECK names that version first, and another Apply is this one's.
func TestStamp(t *testing.T) {
	c := usual(t, contract.ModeNAT)
	t.Cleanup(func() { version.Version = "" })
	for _, tt := range []struct{ by, want string }{
		{"v9.8.7", "v9.8.7 of the plugin has programmed this pod, and this is dev"},
		{"\x1b[31m", `"\x1b[31m" of the plugin has programmed this pod, and this is dev`},
	} {
		pod := newPod(t)
		version.Version = tt.by
		err := Apply(pod.Path(), c)
		version.Version = ""
		if err == nil {
			err = Check(pod.Path(), c, nil)
		}
		if err != nil {
			t.Fatalf("by %q: %v", tt.by, err)
		}
		pod.Run("nft", "delete", "chain", "netdev", contract.Table, "ingress_lo")
		var drift Drift
		if err := Check(pod.Path(), c, nil); !errors.As(err, &drift) || drift[0] != tt.want || len(drift) != 2 {
			t.Errorf("by %q: %q", tt.by, drift)
		}
		apply(t, pod, c)
		pod.Run("nft", "delete", "chain", "netdev", contract.Table, "ingress_lo")
		err = Check(pod.Path(), c, nil)
		if !errors.As(err, &drift) || slices.ContainsFunc(drift, func(d string) bool { return strings.Contains(d, "has programmed") }) {
			t.Errorf("after another Apply: %q", drift)
		}
	}
}
