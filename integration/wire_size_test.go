package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// noiseFile writes a file of size bytes that nginx can read, and returns its hash.
func noiseFile(t *testing.T, path string, size int64) string {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	data, sum := noise(size, 7)
	_, err = io.Copy(file, data)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func fileSum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// wantTransfers downloads a file from nginx and uploads it, and compares the bytes.
func (p *pod) wantTransfers(t *testing.T, f family, served string, size int) {
	t.Helper()
	p.wantDownload(t, f, served, size)
	p.wantUpload(t, f, served, size)
}

func (p *pod) wantDownload(t *testing.T, f family, served string, size int) {
	t.Helper()
	got := filepath.Join(dir(t, 0), "got")
	want := noiseFile(t, filepath.Join(served, "down"), int64(size))
	if out, err := p.curl(f, "-o", got, "http://"+addr(f.pod, webPort)+"/files/down"); err != nil {
		t.Errorf("download: %v\n%s", err, out)
	} else if fileSum(t, got) != want {
		t.Error("download: other bytes")
	}
}

func (p *pod) wantUpload(t *testing.T, f family, served string, size int) {
	t.Helper()
	mine := filepath.Join(dir(t, 0), "mine")
	want := noiseFile(t, mine, int64(size))
	if out, err := p.curl(f, "-T", mine, "http://"+addr(f.pod, webPort)+"/files/up"); err != nil {
		t.Errorf("upload: %v\n%s", err, out)
	} else if fileSum(t, filepath.Join(served, "up")) != want {
		t.Error("upload: other bytes")
	}
}

// narrowMTU is the MTU of a link that neither the client nor the pod is on.
const narrowMTU = 1300

// TestPathMTU: the node's ICMP errors about a smaller MTU behind it reach the sidecar's
// socket.
func TestPathMTU(t *testing.T) {
	said := map[string]string{v4.name: "IcmpOutDestUnreachs", v6.name: "Icmp6OutPktTooBigs"}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served, _ := p.fileServer(t)
		far := p.narrow(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			f.client = far[f.name]
			before := counter(t, p.Node, said[f.name])
			p.wantTransfers(t, f, served, lab.Count(2<<20)+100_000)
			if counter(t, p.Node, said[f.name]) == before {
				t.Error("the node sent no ICMP errors: every segment was small")
			}
			if route := p.Pod.Run("ip", "route", "get", f.client); !strings.Contains(route, fmt.Sprint("mtu ", narrowMTU)) {
				t.Errorf("the pod has not learned the MTU: %s", route)
			}
			p.wantExact(t, f)
		})
	})
}

// narrow gives the client a second path to the pod, through a router with a narrow link
// to the node, and returns its addresses there.
//
//	client wide0 ── 1500 ── client0 router node0 ── 1300 ── narrow0 node ── 1500 ── pod
func (p *pod) narrow(t *testing.T) map[string]string {
	t.Helper()
	router := lab.New(t, "router").Up()
	router.Sysctl("net.ipv4.ip_forward", "1")
	router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	lab.Veth(p.Node, "narrow0", router, "node0")
	lab.Veth(router, "client0", p.Client, "wide0")
	p.Node.Run("ip", "link", "set", "narrow0", "mtu", fmt.Sprint(narrowMTU))
	router.Run("ip", "link", "set", "node0", "mtu", fmt.Sprint(narrowMTU))
	p.Node.Addr("narrow0", "192.168.8.1/24", "fd00:8::1/64")
	router.Addr("node0", "192.168.8.2/24", "fd00:8::2/64")
	router.Addr("client0", "192.168.9.1/24", "fd00:9::1/64")
	p.Client.Addr("wide0", "192.168.9.2/24", "fd00:9::2/64")
	p.Client.Route(v4.pod+"/32", "192.168.9.1")
	p.Client.Route(v6.pod+"/128", "fd00:9::1")
	router.Route("default", "192.168.8.1")
	router.Route("default", "fd00:8::1")
	p.Node.Route("192.168.9.0/24", "192.168.8.2")
	p.Node.Route("fd00:9::/64", "fd00:8::2")
	return map[string]string{v4.name: "192.168.9.2", v6.name: "fd00:9::2"}
}

// cable is one end of a veth between the client and the pod.
type cable struct {
	ns   *lab.NS
	link string
}

func (p *pod) cables() []cable {
	return []cable{{p.Client, "eth0"}, {p.Node, "client0"}, {p.Node, p.nodeLink()}, {p.Pod, "eth0"}}
}

// TestJumbo: frames of 9,000 bytes.
func TestJumbo(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served, _ := p.fileServer(t)
		for _, c := range p.cables() {
			c.ns.Run("ip", "link", "set", c.link, "mtu", "9000", "gso_max_segs", "1") // a frame is a segment
		}
		wire := newLongest(t, p.Node, p.nodeLink())
		p.inFamilies(t, func(t *testing.T, f family) {
			for _, transfer := range []func(*testing.T, family, string, int){p.wantDownload, p.wantUpload} {
				transfer(t, f, served, lab.Count(4<<20)+100_000)
				if n := wire.Swap(0); n < 8_900 {
					t.Errorf("the longest frame had %d bytes", n)
				}
			}
		})
	})
}

// bigSegment is the limit that BIG TCP is set to.
const bigSegment = 200_000

// bigTransfer is enough for the congestion window to let segments be big.
var bigTransfer = lab.Count(10<<20) + 8<<20

// TestBigTCP: the kernel hands on segments of more than 64 KiB, whose length is
// not in the IP header.
func TestBigTCP(t *testing.T) {
	lab.NeedKernel(t, lab.BigTCP)
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served, _ := p.fileServer(t)
		var limited bool
		for _, c := range p.cables() {
			limited = setBig(t, c) || limited
			if c.ns != p.Node {
				// A router adds the extension header for the length to
				// the size of a segment.
				c.ns.Run("ip", "link", "set", c.link, "mtu", "1400")
			}
		}
		for _, ns := range []*lab.NS{p.Client, p.Pod} {
			// As large as may be from the start, and not by the rate; half a
			// receiver's window is the most.
			ns.Sysctl("net.ipv4.tcp_min_tso_segs", fmt.Sprint(bigSegment/1300))
			ns.Sysctl("net.ipv4.tcp_rmem", "4096 4194304 8388608")
			ns.Sysctl("net.ipv4.tcp_wmem", "4096 4194304 8388608")
		}
		wire := newLongest(t, p.Node, p.nodeLink())
		p.inFamilies(t, func(t *testing.T, f family) {
			for _, transfer := range []func(*testing.T, family, string, int){p.wantDownload, p.wantUpload} {
				before, transfers := p.resent(t), 0
				// How much a segment has depends on who is faster at the moment.
				lab.Eventually(t, "a frame of more than 64 kB", func() error {
					transfer(t, f, served, bigTransfer)
					transfers++
					if n := wire.Swap(0); n <= 1<<16 && !(f == v4 && limited) {
						return fmt.Errorf("the longest of transfer %d had %d bytes", transfers, n)
					}
					return nil
				})
				// TCP retransmits lost segments as small ones.
				if n := p.resent(t) - before; n > transfers*bigTransfer/1400/10 {
					t.Errorf("%d segments were retransmitted", n)
				}
			}
		})
	})
}

// resent is how many segments the client and the pod have retransmitted.
func (p *pod) resent(t *testing.T) int {
	t.Helper()
	return counter(t, p.Client, "TcpRetransSegs") + counter(t, p.Pod, "TcpRetransSegs")
}

// setBig allows big segments on a link. not4 reports whether they cannot be big in IPv4:
// before Linux 6.3.
func setBig(t *testing.T, c cable) (not4 bool) {
	t.Helper()
	err := c.ns.Do(func() error {
		l, err := netlink.LinkByName(c.link)
		if err != nil {
			return err
		}
		err = errors.Join(netlink.LinkSetGSOMaxSize(l, bigSegment), netlink.LinkSetGROMaxSize(l, bigSegment),
			netlink.LinkSetGSOIPv4MaxSize(l, bigSegment), netlink.LinkSetGROIPv4MaxSize(l, bigSegment))
		if err != nil {
			return err
		}
		l, err = netlink.LinkByName(c.link)
		if err == nil {
			not4 = l.Attrs().GSOIPv4MaxSize != bigSegment
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return not4
}

// newLongest counts the longest frame at a link, in either direction, until the
// test ends.
func newLongest(t *testing.T, ns *lab.NS, link string) *atomic.Int64 {
	t.Helper()
	var fd int
	if err := ns.Do(func() (err error) { fd, err = packetSocket(link); return err }); err != nil {
		t.Fatal(err)
	}
	longest, done, stopped := new(atomic.Int64), make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(done)
		<-stopped
		unix.Close(fd)
	})
	go func() {
		defer close(stopped)
		var none [1]byte
		for {
			n, _, err := unix.Recvfrom(fd, none[:], unix.MSG_TRUNC) // the frame's own length
			select {
			case <-done:
				return
			default:
			}
			if err == nil {
				longest.Store(max(longest.Load(), int64(n)))
			}
		}
	}()
	return longest
}
