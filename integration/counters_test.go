package integration

import (
	"errors"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// TestCounters: each counter counts what it is for, and nothing of the rest.
func TestCounters(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for _, step := range []struct {
			name string
			do   func(*testing.T, family)
			more []string // the counters that it moves
		}{
			{"served", p.wantExact, []string{"redirected", "spoofed"}},
			{"nobody listens", func(t *testing.T, f family) {
				wantRefused(t, end{p.Client, f.client}, addr(f.pod, podPort))
			}, []string{"refused"}},
			{"another user in a client's name", func(t *testing.T, f family) {
				p.wantDropped(t, f.foreign, addr(f.pod, webPort))
			}, []string{"spoof_refused"}},
			{"to the network in a client's name", func(t *testing.T, f family) {
				p.wantDropped(t, f.foreign, addr(f.client, webPort))
			}, []string{"guard_dropped"}},
			{"a frame", func(t *testing.T, _ family) { p.sendFrame(t) }, []string{"frames_dropped"}},
			{"the sidecar is down", func(t *testing.T, f family) {
				p.sidecar.Kill()
				wantRefused(t, end{p.Client, f.client}, addr(f.pod, webPort))
			}, append(map[string][]string{"nat": {"redirected"}}[p.mode], "refused")},
		} {
			t.Run(step.name, func(t *testing.T) {
				p.inFamilies(t, func(t *testing.T, f family) {
					// The sidecar's own check of the pod, now and then, opens spoofed legs,
					// too: a step that it fell in is done again.
					for more := 3; ; more-- {
						want := p.counters(t)
						step.do(t, f)
						for _, name := range step.more {
							want[name]++
						}
						got := p.counters(t)
						if got["spoofed"] > want["spoofed"] && more > 0 {
							continue
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("counters (-want +got): %s", diff)
						}
						return
					}
				})
			})
		}
	})
}

// counters are those of the pod's rules.
func (p *pod) counters(t *testing.T) map[string]uint64 {
	t.Helper()
	packets, err := intercept.Counters(p.Pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	return packets
}

// wantDropped sends a datagram that the rules drop.
func (p *pod) wantDropped(t *testing.T, from, to string) {
	t.Helper()
	conn, err := p.Pod.Dial("udp", from, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
		t.Errorf("%s to %s: %v, want that it is dropped", from, to, err)
	}
}

// sendFrame sends a frame of a packet socket to the network.
func (p *pod) sendFrame(t *testing.T) {
	t.Helper()
	err := p.Pod.Do(func() error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = unix.Sendto(fd, make([]byte, 60), 0, &unix.SockaddrLinklayer{Ifindex: eth.Index})
		if errors.Is(err, unix.ENOBUFS) { // how the kernel says that it was dropped
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
