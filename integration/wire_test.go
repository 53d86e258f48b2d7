package integration

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// tcpSegment is a captured segment.
type tcpSegment struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	tos      byte   // traffic class
	headers  bool   // IP options or extension headers were there
	options  []byte // of TCP
	data     []byte
}

// TCP's flags.
const (
	fin, syn, rst, psh, ackFlag = 0x01, 0x02, 0x04, 0x08, 0x10
	ece, cwr                    = 0x40, 0x80
)

// next is the sequence number after a segment.
func (s tcpSegment) next() uint32 {
	n := s.seq + uint32(len(s.data))
	if s.flags&(syn|fin) != 0 {
		n++
	}
	return n
}

// segments returns the captured TCP segments in order.
func (c *capture) segments() (all []tcpSegment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.frames {
		if s, ok := parseFrame(f); ok {
			all = append(all, s)
		}
	}
	return all
}

// option reports whether the segment has a TCP option of this kind.
func (s tcpSegment) option(kind byte) bool {
	for o := s.options; len(o) > 1 && o[0] != 0; {
		switch {
		case o[0] == kind:
			return true
		case o[0] == 1: // padding, without a length
			o = o[1:]
		case o[1] < 2 || int(o[1]) > len(o):
			return false
		default:
			o = o[o[1]:]
		}
	}
	return false
}

// clear forgets what was captured so far.
func (c *capture) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = nil
}

// wantSegment waits until a segment is captured that satisfies is.
func (c *capture) wantSegment(t *testing.T, what string, is func(tcpSegment) bool) (found tcpSegment) {
	t.Helper()
	lab.Eventually(t, what, func() error {
		all := c.segments()
		for _, s := range all {
			if is(s) {
				found = s
				return nil
			}
		}
		return fmt.Errorf("not among %d segments", len(all))
	})
	return found
}

func parseFrame(f []byte) (s tcpSegment, ok bool) {
	if len(f) < 14+40 {
		return s, false
	}
	ip, proto, at := f[14:], byte(0), 0
	switch kind := binary.BigEndian.Uint16(f[12:]); kind {
	case unix.ETH_P_IP:
		proto, at = ip[9], int(ip[0]&15)*4
		s.tos, s.headers = ip[1], at > 20
		s.src, s.dst = addrFrom(ip[12:16]), addrFrom(ip[16:20])
		if n := int(binary.BigEndian.Uint16(ip[2:])); n > at && n <= len(ip) {
			ip = ip[:n] // without the padding of short frames
		}
	case unix.ETH_P_IPV6:
		proto, at = ip[6], 40
		s.tos = byte(binary.BigEndian.Uint16(ip) >> 4)
		s.src, s.dst = addrFrom(ip[8:24]), addrFrom(ip[24:40])
		for (proto == unix.IPPROTO_HOPOPTS || proto == unix.IPPROTO_DSTOPTS) && at+8 <= len(ip) {
			s.headers = true
			proto, at = ip[at], at+8+8*int(ip[at+1])
		}
	default:
		return s, false
	}
	if proto != unix.IPPROTO_TCP || len(ip) < at+20 {
		return s, false
	}
	tcp := ip[at:]
	data := int(tcp[12]>>4) * 4
	if data < 20 || len(tcp) < data {
		return s, false
	}
	s.src = netip.AddrPortFrom(s.src.Addr(), binary.BigEndian.Uint16(tcp))
	s.dst = netip.AddrPortFrom(s.dst.Addr(), binary.BigEndian.Uint16(tcp[2:]))
	s.seq, s.ack = binary.BigEndian.Uint32(tcp[4:]), binary.BigEndian.Uint32(tcp[8:])
	s.flags, s.options, s.data = tcp[13], tcp[20:data], tcp[data:]
	return s, true
}

func addrFrom(b []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, 0)
}

// counter is one of the kernel's counters in a namespace, by nstat's name.
func counter(t *testing.T, ns *lab.NS, name string) (n int) {
	t.Helper()
	for _, line := range strings.Split(ns.Run("nstat", "-asz", name), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n = atoi(t, f[1])
		}
	}
	return n
}

// fileServer starts nginx with a master process, as Debian does. It serves the files
// of the returned directory under /files/, accepts new ones by PUT, answers every other
// request with its peer, and logs the peer of each to access.log in the directory.
func (p *pod) fileServer(t *testing.T) (dir_ string, master *lab.Proc) {
	t.Helper()
	lab.Need(t, "nginx", "curl")
	d := dir(t, appUID)
	conf := write(t, filepath.Join(d, "nginx.conf"), fmt.Sprintf(`
daemon off; worker_processes 2; pid %[1]s/pid; error_log stderr notice;
events {}
http {
	log_format seen '$remote_addr $remote_port';
	access_log %[1]s/access.log seen; sendfile on;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
	uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server {
		listen 0.0.0.0:%[2]d; listen [::]:%[2]d;
		location / { return 200 "$remote_addr $remote_port\n"; }
		location /files/ { alias %[1]s/; dav_methods PUT; client_max_body_size 0; }
	}
}
`, d, webPort))
	master = p.Pod.StartAs(app, "nginx", "-e", "stderr", "-c", conf).WaitListen(webPort)
	t.Cleanup(func() { _ = master.Stop() }) // and with it its workers
	return d, master
}

// curl runs curl in the client's namespace from the family's address.
func (p *pod) curl(f family, args ...string) (string, error) {
	limit := fmt.Sprint(int(lab.Patience.Seconds()))
	return p.Client.Try(append([]string{"curl", "-sSf", "--max-time", limit, "--interface", f.client}, args...)...)
}

// wantCurl checks that curl's socket and nginx' answer agree.
func (p *pod) wantCurl(t *testing.T, f family, args ...string) {
	t.Helper()
	args = append(args, "-w", "%{local_ip} %{local_port}\n", "http://"+addr(f.pod, webPort)+"/")
	out, err := p.curl(f, args...)
	if err != nil {
		t.Errorf("curl %v: %v\n%s", args, err, out)
		return
	}
	saw, mine, _ := strings.Cut(strings.TrimSpace(out), "\n")
	sawPeer, errSaw := peer(saw)
	minePeer, errMine := peer(mine)
	if errSaw != nil || errMine != nil {
		t.Errorf("curl %v: %q", args, out)
		return
	}
	p.wantSeen(t, sawPeer, minePeer)
}
