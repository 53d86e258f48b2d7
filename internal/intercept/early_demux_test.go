package intercept

import (
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestEarlyDemux: off while nat mode is programmed on a kernel that errs, and
// nowhere else. That the error is gone then is for the sidecar's TestFanIn.
func TestEarlyDemux(t *testing.T) {
	pod := newPod(t)
	is := func() string { return strings.TrimSpace(pod.Run("cat", "/proc/sys/net/ipv4/tcp_early_demux")) }
	want := map[contract.Mode]string{contract.ModeNAT: "1", contract.ModeTProxy: "1"}
	if demuxErrsOn(pod.Run("uname", "-r")) {
		want[contract.ModeNAT] = "0"
	}
	for mode, w := range want {
		c := Default(mode)
		apply(t, pod, c)
		if got := is(); got != w {
			t.Errorf("%s: tcp_early_demux is %s, want %s", mode, got, w)
		}
		if w == "0" {
			pod.Sysctl("net.ipv4.tcp_early_demux", "1")
			if err := Check(pod.Path(), c, nil); err == nil || !strings.Contains(err.Error(), "net.ipv4.tcp_early_demux is 1, not 0") {
				t.Errorf("CHECK says %v", err)
			}
			apply(t, pod, c)
		}
		if err := Remove(pod.Path(), "eth0"); err != nil {
			t.Fatal(err)
		}
		if got := is(); got != "1" {
			t.Errorf("%s: removed, tcp_early_demux is %s", mode, got)
		}
	}
}

func TestDemuxErrsOn(t *testing.T) {
	for release, want := range map[string]bool{
		"5.15.0-91-generic": true, "6.1.0-56-amd64": true, "6.6.30": true, "6.7.0": false, "6.12.117+deb12-amd64": false, "7.0": false, "x": false,
	} {
		if got := demuxErrsOn(release); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}
