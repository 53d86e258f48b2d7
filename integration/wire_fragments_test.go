package integration

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestFragments: all of the client's packets arrive in fragments, the last one first.
// Rules that match ports find none in a fragment.
func TestFragments(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served, _ := p.fileServer(t)
		cut := newFragmenter(t, p.Client, "eth0")
		for _, f := range p.fams() {
			// With the address of the interface on which the answers arrive.
			p.Client.Run("ip", "route", "add", f.pod, "dev", tunLink, "src", f.client)
		}
		p.inFamilies(t, func(t *testing.T, f family) {
			before := cut.Load()
			p.wantCurl(t, f)
			p.wantTransfers(t, f, served, lab.Count(512<<10)+20_000)
			if cut.Load() == before {
				t.Error("nothing was fragmented")
			}
		})
	})
}

// tunLink is the device that receives the client's packets for the pod.
const tunLink = "cut0"

// newFragmenter makes a tun device in a namespace, fragments its packets and sends them
// on through another link. The returned function is how many it has fragmented.
func newFragmenter(t *testing.T, ns *lab.NS, by string) *atomic.Int64 {
	t.Helper()
	device := tunDevice(t)
	var tun *os.File
	out := map[int]int{} // a raw socket by IP version
	err := ns.Do(func() (err error) {
		if tun, err = openTun(device); err != nil {
			return err
		}
		for version, domain := range map[int]int{4: unix.AF_INET, 6: unix.AF_INET6} {
			fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return os.NewSyscallError("socket", err)
			}
			out[version] = fd
			if err := unix.BindToDevice(fd, by); err != nil {
				return os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
			}
		}
		return nil
	})
	done := make(chan struct{})
	t.Cleanup(func() {
		if tun != nil {
			tun.Close()
			<-done
		}
		for _, fd := range out {
			unix.Close(fd)
		}
	})
	if err != nil {
		close(done)
		t.Fatal(err)
	}
	ns.Run("ip", "link", "set", tunLink, "up")
	packets := new(atomic.Int64)
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, err := tun.Read(buf)
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("read %s: %v", tunLink, err)
				}
				return
			}
			sendFragments(t, out, buf[:n], packets.Add(1))
		}
	}()
	return packets
}

// tunDevice is the path of the tun device node. Without udev it may not exist before the
// first use; opening a node of our own makes the kernel load the module.
func tunDevice(t *testing.T) string {
	t.Helper()
	path := "/dev/net/tun"
	if _, err := os.Stat(path); os.IsNotExist(err) {
		path = filepath.Join(dir(t, 0), "tun")
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
			t.Fatal(&os.PathError{Op: "mknod", Path: path, Err: err})
		}
	}
	return path
}

func openTun(device string) (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	req, err := unix.NewIfreq(tunLink)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), tunLink), nil // readable until it is closed
}

// sendFragments sends a TCP packet in fragments, the last one first. Other packets, which
// a link sends by itself, are dropped.
func sendFragments(t *testing.T, out map[int]int, packet []byte, id int64) {
	version := int(packet[0] >> 4)
	cutters := map[int]func([]byte, int64) [][]byte{4: fragments4, 6: fragments6}
	if cutters[version] == nil {
		return
	}
	var to unix.Sockaddr
	switch {
	case version == 4 && packet[9] == unix.IPPROTO_TCP:
		to = &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	case version == 6 && packet[6] == unix.IPPROTO_TCP:
		to = &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	default:
		return
	}
	for _, f := range slices.Backward(cutters[version](packet, id)) {
		if err := unix.Sendto(out[version], f, 0, to); err != nil {
			t.Errorf("send a fragment: %v", err)
		}
	}
}

// pieces splits the IP payload at multiples of 8 bytes. The first piece is TCP's header
// without options, the least that IPv6 permits.
func pieces(data []byte, each func(offset int, more bool, piece []byte)) {
	for at, size := 0, 24; at < len(data); size = 512 {
		end := min(at+size, len(data))
		each(at, end < len(data), data[at:end])
		at = end
	}
}

// fragments4 makes the IPv4 fragments; the kernel fills in length and checksum.
func fragments4(packet []byte, id int64) (all [][]byte) {
	header := int(packet[0]&15) * 4
	pieces(packet[header:], func(offset int, more bool, piece []byte) {
		f := slices.Concat(packet[:header], piece)
		binary.BigEndian.PutUint16(f[4:], uint16(id))
		at := uint16(offset / 8)
		if more {
			at |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], at)
		all = append(all, f)
	})
	return all
}

func fragments6(packet []byte, id int64) (all [][]byte) {
	pieces(packet[40:], func(offset int, more bool, piece []byte) {
		h := []byte{packet[6], 0, 0, 0, 0, 0, 0, 0}
		at := uint16(offset)
		if more {
			at |= 1
		}
		binary.BigEndian.PutUint16(h[2:], at)
		binary.BigEndian.PutUint32(h[4:], uint32(id))
		f := slices.Concat(packet[:40], h, piece)
		binary.BigEndian.PutUint16(f[4:], uint16(len(h)+len(piece)))
		f[6] = unix.IPPROTO_FRAGMENT
		all = append(all, f)
	})
	return all
}
