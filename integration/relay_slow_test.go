package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestSlowReaders: clients that do not read take no buffers of the sidecar, and get
// every byte when they do read.
func TestSlowReaders(t *testing.T) {
	const clients, size = 200, 1 << 20
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		for _, ns := range []*lab.NS{p.Client, p.Pod} { // little fills what is in between
			ns.Sysctl("net.ipv4.tcp_rmem", "4096 65536 131072")
			ns.Sysctl("net.ipv4.tcp_wmem", "4096 16384 65536")
		}
		p.start()
		want := p.nginxFile(t, size)
		before := p.sidecarMemory(t)
		var conns []net.Conn
		for i := range clients {
			conn := p.dial(t, p.fams()[i%2], webPort)
			if _, err := io.WriteString(conn, "GET /file HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		p.blocked(t, clients)
		if grown := p.sidecarMemory(t) - before; grown > 8<<20 {
			t.Errorf("%d clients that do not read cost the sidecar %d bytes", clients, grown)
		}
		var all sync.WaitGroup
		reads := lab.Count(160) + 40 // all, but for a slow computer
		for i, conn := range conns {
			if i >= reads {
				conn.Close()
				continue
			}
			all.Go(func() {
				answer, err := io.ReadAll(conn)
				_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
				if got := sha256.Sum256([]byte(body)); err != nil || got != want {
					t.Errorf("client %d got %d bytes of %d, or they differ: %v", i, len(body), size, err)
				}
			})
		}
		all.Wait()
	})
}

// TestWindow: how much the kernel buffers for a client that does not read, from the start
// or after many bytes. Where net.core.rmem_max keeps the sidecar from setting a limit,
// as before Linux 6.16, tcp_rmem's limit applies.
func TestWindow(t *testing.T) {
	size, most := int64(max(64<<20, lab.Count(256<<20))), 1<<20+128<<10
	if sysctlMost(t, "net/core/rmem_max") < most/2 {
		most = sysctlMost(t, "net/ipv4/tcp_rmem")
	}
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginxFile(t, size)
		p.inFamilies(t, func(t *testing.T, f family) {
			for _, reads := range []int64{0, size / 4} {
				conn := p.dial(t, f, webPort)
				if _, err := io.WriteString(conn, "GET /file HTTP/1.0\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, conn, reads); err != nil {
					t.Fatal(err)
				}
				p.blocked(t, 1)
				if kept := p.received(t); kept > most {
					t.Errorf("after %d bytes the kernel keeps %d that the application has sent", reads, kept)
				}
				conn.Close()
				lab.Eventually(t, "no connection", func() error {
					if n := len(p.legs(t)); n > 0 {
						return fmt.Errorf("%d", n)
					}
					return nil
				})
			}
		})
	})
}

// nginxFile starts nginx with a file of random bytes and returns their hash.
func (p *pod) nginxFile(t *testing.T, size int64) (sum [32]byte) {
	t.Helper()
	lab.Need(t, "nginx", "ss")
	d := dir(t, appUID)
	data, hash := noise(size, 3)
	f, err := os.Create(filepath.Join(d, "file"))
	if err == nil {
		_, err = io.Copy(f, data)
		err = errors.Join(err, f.Chmod(0o644), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	conf := write(t, filepath.Join(d, "nginx.conf"), fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
events { worker_connections 1000; }
http {
	access_log off; sendfile on; send_timeout 600s;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
	uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server { listen %[2]d; listen [::]:%[2]d; root %[1]s; }
}
`, d, webPort))
	p.Pod.StartAs(app, "nginx", "-e", "stderr", "-c", conf).WaitListen(webPort)
	return [32]byte(hash.Sum(nil))
}

// sidecarMemory is the sidecar's anonymous memory in bytes.
func (p *pod) sidecarMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.sidecar.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no RssAnon in %s", text)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n << 10
}

// blocked waits until n connections are stalled: nginx has bytes to send on each, and
// no socket's queues change between two looks.
func (p *pod) blocked(t *testing.T, n int) {
	t.Helper()
	last, same := "", 0
	lab.Eventually(t, "the application cannot send", func() error {
		now, waiting := "", 0
		for line := range strings.Lines(p.Pod.Run("ss", "-tneHO", "state", "connected", "sport", "=", fmt.Sprint(webPort))) {
			f := strings.Fields(line)
			now += fmt.Sprintln(f[:5]) // without the timers, which never stand still
			if f[2] != "0" && strings.Contains(line, fmt.Sprint("uid:", appUID)) {
				waiting++
			}
		}
		if waiting != n {
			return fmt.Errorf("nginx has bytes to send on %d of %d", waiting, n)
		}
		if now != last {
			last, same = now, 0
		} else {
			same++
		}
		if same < 10 {
			return errors.New("bytes are still moving")
		}
		return nil
	})
}

// legs are the sidecar's sockets towards nginx, as ss shows them.
func (p *pod) legs(t *testing.T) (all []string) {
	t.Helper()
	for line := range strings.Lines(p.Pod.Run("ss", "-tnmeHO", "state", "connected", "dport", "=", fmt.Sprint(webPort))) {
		if strings.Contains(line, fmt.Sprint("uid:", contract.ProxyUID)) {
			all = append(all, line)
		}
	}
	return all
}

// received is how much the kernel has buffered for the sidecar from nginx, in bytes of
// kernel memory.
func (p *pod) received(t *testing.T) (sum int) {
	t.Helper()
	for _, leg := range p.legs(t) {
		m := regexp.MustCompile(`skmem:\(r(\d+),`).FindStringSubmatch(leg)
		if m == nil {
			t.Fatalf("no memory in %s", leg)
		}
		n, _ := strconv.Atoi(m[1])
		sum += n
	}
	return sum
}

// sysctlMost is the last number of a setting.
func sysctlMost(t *testing.T, key string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/" + key)
	if err != nil {
		t.Fatal(err)
	}
	numbers := strings.Fields(string(text))
	return atoi(t, numbers[len(numbers)-1])
}
