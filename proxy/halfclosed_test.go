package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestVanished: the application has closed its connections, and the kernel has
// forgotten them. A client that ignores the FIN does not hold the sidecar's
// descriptors; a slow one gets all that was sent.
func TestVanished(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := prepared(t, mode)
			p.Pod.Sysctl("net.ipv4.tcp_fin_timeout", "1")
			p.Pod.Sysctl("net.ipv4.tcp_wmem", "4096 4194304 4194304") // room for all that the slow client is sent
			p.start()
			p.waitReady()
			p.vanish(t)
		})
	}
}

func (p *pod) vanish(t *testing.T) {
	before := p.descriptors(t)
	type visit struct {
		name   string
		client io.Reader
		sum    []byte
	}
	var slow []visit
	for _, f := range []ipFamily{ip4, ip6} {
		client, application := p.pair(t, f)
		say(t, client, application, "hello")
		if err := application.Close(); err != nil {
			t.Fatal(err)
		}
		_ = client // says nothing more, and does not close

		client, application = p.pair(t, f)
		if err := client.SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		data := random(t, 1<<20)
		if _, err := application.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := application.Close(); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		slow = append(slow, visit{f.name, client, sum[:]})
	}
	lab.Eventually(t, "the sidecar's descriptors are back", func() error {
		if n := p.descriptors(t); n > before {
			return fmt.Errorf("%d, %d before\n%s", n, before, p.Pod.Run("ss", "-tanoH"))
		}
		return nil
	})
	for _, v := range slow {
		got := sha256.New()
		n, err := io.Copy(got, v.client)
		if err != nil || !bytes.Equal(got.Sum(nil), v.sum) {
			t.Errorf("%s: the slow client got %d bytes (%v), or others", v.name, n, err)
		}
	}
}

// TestHalfClosedLives: a connection of which the application has closed one direction
// only lives for as long as the client takes.
func TestHalfClosedLives(t *testing.T) {
	inModes(t, func(t *testing.T, p *pod) {
		inFamilies(t, func(t *testing.T, f ipFamily) {
			client, application := p.pair(t, f)
			move(t, application, client, 1<<16)
			lab.Eventually(t, "the kernel asks for the application, and it answers", func() error {
				out := p.Pod.Run("ss", "-tniH", "state", "close-wait", "dport", "=", fmt.Sprint(sock.AddrPort(application.LocalAddr()).Port()))
				sent, answered := since(out, "lastsnd"), since(out, "lastack")
				// Nothing was sent meanwhile but the question.
				if sent < 0 || answered < 0 || answered > sent-5*time.Second {
					return errors.New(out)
				}
				return nil
			})
			move(t, client, application, 1<<16)
			p.wantEnd(t, sock.AddrPort(client.LocalAddr()), accesslog.Closed)
		})
	})
}

// since is how long ago something was by ss -i, which has it in ms; negative if it is
// not there.
func since(ss, what string) time.Duration {
	m := regexp.MustCompile(` ` + what + `:(\d+)`).FindStringSubmatch(ss)
	if m == nil {
		return -1
	}
	ms, _ := strconv.Atoi(m[1])
	return time.Duration(ms) * time.Millisecond
}

// descriptors counts the sidecar's sockets.
func (p *pod) descriptors(t *testing.T) (n int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd/", p.sidecar.Pid())
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, _ := os.Readlink(dir + f.Name()); strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
