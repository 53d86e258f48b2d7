package integration

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestEarlyClose: a response sent before the whole request arrived reaches the client,
// and the sidecar forgets a client that has gone.
func TestEarlyClose(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.fileServer(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			big := filepath.Join(dir(t, 0), "big")
			noiseFile(t, big, int64(lab.Count(64<<20)+4<<20))
			// nginx' limit for what is not under /files/ is 1 MiB.
			out, err := p.curl(f, "-w", "%{http_code}", "-o", os.DevNull, "--no-fail",
				"-H", "Expect:", "-T", big, "http://"+addr(f.pod, webPort)+"/up")
			if out != "413" || err != nil {
				t.Errorf("an upload that is refused: %q (%v)", out, err)
			}
			for i := range 40 {
				conn := p.dial(t, f, webPort).(*net.TCPConn)
				_ = conn.SetLinger(i%2 - 1) // a FIN or a RST
				if i/2%2 == 0 {
					fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n")
				}
				conn.Close()
			}
			p.wantNone(t)
			p.wantExact(t, f)
		})
	})
}

// wantNone waits until the sidecar has no connection.
func (p *pod) wantNone(t *testing.T) {
	t.Helper()
	lab.Eventually(t, "no connection of the sidecar", func() error {
		all, err := p.Pod.Sockets()
		if err != nil {
			return err
		}
		for _, s := range all {
			const listen, established, closeWait = 10, 1, 8
			if s.UID == contract.ProxyUID && (s.State == established || s.State == closeWait) {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
}

// TestPortAgain: a client reuses the port of a connection whose end did not reach the
// pod, and of one that ended because the sidecar crashed.
func TestPortAgain(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			from, to := addr(f.client, 40_000), addr(f.pod, webPort)
			open := func() *net.TCPConn {
				conn, err := p.Client.Dial("tcp", from, to)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				_ = conn.SetDeadline(time.Now().Add(lab.Patience))
				if saw := p.askOn(t, conn); !p.same(saw, from) {
					t.Errorf("%s seen as %s", from, saw)
				}
				return conn.(*net.TCPConn)
			}
			challenged := counter(t, p.Pod, "TcpExtTCPSYNChallenge")
			vanish(t, open())
			p.wantExactAt(t, from, to)
			if counter(t, p.Pod, "TcpExtTCPSYNChallenge") == challenged {
				t.Error("the end of the connection reached the pod")
			}

			conn := open()
			p.sidecar.Kill()
			if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			conn.Close()
			p.start()
			p.wantExactAt(t, from, to)
		})
	})
}

// askOn asks nginx over a connection that stays open.
func (p *pod) askOn(t *testing.T, conn net.Conn) string {
	t.Helper()
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return answer(t, conn)
}

// answer reads nginx' response to a complete request.
func answer(t *testing.T, conn net.Conn) string {
	t.Helper()
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	saw, err := peer(string(body))
	if err != nil {
		t.Fatal(err)
	}
	return saw
}

// vanish closes a connection as a crash of the client's machine does: no packet is
// sent.
func vanish(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt TCP_REPAIR", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1))
	})
	if err := errors.Join(cerr, err, conn.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestReload: nginx starts new workers and lets the old ones finish. It affects no
// client: neither new ones nor those in the middle of a request or response.
func TestReload(t *testing.T) {
	const reloads, workers = 5, 2
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served, master := p.fileServer(t)
		want := noiseFile(t, filepath.Join(served, "down"), int64(lab.Count(8<<20)+4<<20))
		p.inFamilies(t, func(t *testing.T, f family) {
			gone := func() int { return strings.Count(master.Output(), "gracefully shutting down") }
			for range reloads {
				asking, reading := p.dial(t, f, webPort), p.dial(t, f, webPort)
				for conn, text := range map[net.Conn]string{
					asking: "GET / HTTP/1.0\r\nX-Half: ", reading: "GET /files/down HTTP/1.0\r\n\r\n",
				} {
					_ = conn.SetDeadline(time.Now().Add(lab.Patience))
					if _, err := io.WriteString(conn, text); err != nil {
						t.Fatal(err)
					}
				}
				before := gone()
				master.Signal(syscall.SIGHUP)
				lab.Eventually(t, "the old workers' end", func() error {
					p.wantExact(t, f)
					if n := gone() - before; n < workers {
						return fmt.Errorf("%d of %d", n, workers)
					}
					return nil
				})
				if _, err := io.WriteString(asking, "whole\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				p.wantSeen(t, answer(t, asking), asking.LocalAddr().String())
				if got, err := bodySum(reading); err != nil || got != want {
					t.Errorf("other bytes (%v)", err)
				}
			}
		})
	})
}

// bodySum is the hash of a response's body.
func bodySum(conn net.Conn) (string, error) {
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, a.Body)
	return hex.EncodeToString(sum.Sum(nil)), err
}
