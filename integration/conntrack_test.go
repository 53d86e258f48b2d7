package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// rtoMax is the longest time between two retransmissions in seconds: TCP_RTO_MAX.
const rtoMax = 120

// TestHalfClosedIsKnown: conntrack does not forget a half-closed client that does not
// read between two of the application's retransmissions.
func TestHalfClosedIsKnown(t *testing.T) {
	t.Parallel()
	lab.Need(t, "socat", "ss")
	p := newPod(t, setup{mode: contract.ModeNAT})
	file := filepath.Join(dir(t, appUID), "file")
	want := noiseFile(t, file, 32<<20) // more than all buffers on the way take
	// A server that supports half-closed clients: nginx aborts if the FIN comes apart
	// from the request.
	p.Pod.StartAs(app, "socat", "-t", "3600", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,fork,reuseaddr", webPort),
		"SYSTEM:cat > /dev/null; cat "+file).WaitListen(webPort)
	p.inFamilies(t, func(t *testing.T, f family) {
		client := p.dial(t, f, webPort).(*net.TCPConn)
		if _, err := io.WriteString(client, "the file, please\n"); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		p.blocked(t, 1)
		me := addrPort(t, client.LocalAddr().String())
		var entry *netlink.ConntrackFlow
		lab.Eventually(t, "conntrack knows of the end", func() error {
			entry = p.conntrack(t, f, me.Port())
			if entry == nil {
				return fmt.Errorf("no entry for %s", me)
			}
			const established = 3 // enum tcp_conntrack
			if tcp, ok := entry.ProtoInfo.(*netlink.ProtoInfoTCP); !ok || tcp.State <= established {
				return fmt.Errorf("the entry is %+v", entry.ProtoInfo)
			}
			return nil
		})
		if entry.TimeOut <= 2*rtoMax {
			t.Errorf("conntrack forgets the connection in %d s, but the next retransmission may be in %d s", entry.TimeOut, rtoMax)
		}
		got := sha256.New()
		if n, err := io.Copy(got, client); err != nil || hex.EncodeToString(got.Sum(nil)) != want {
			t.Errorf("the client got %d bytes (%v), or they differ", n, err)
		}
	})
}

// conntrack returns the entry of the client's connection from a port, nil if there is
// none.
func (p *pod) conntrack(t *testing.T, f family, from uint16) (entry *netlink.ConntrackFlow) {
	t.Helper()
	af := netlink.InetFamily(unix.AF_INET)
	if f == v6 {
		af = unix.AF_INET6
	}
	err := p.Pod.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, af)
		for _, flow := range flows {
			if flow.Forward.Protocol == unix.IPPROTO_TCP && flow.Forward.SrcPort == from {
				entry = flow
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return entry
}
