package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// noLonger are the claims of proxy/README.md that a test can check: what the
// application's socket shows without a sidecar, and behind it in each mode.
var noLonger = []struct {
	claim               string // the beginning of its row
	direct, nat, tproxy string
	look                func(t *testing.T, p *pod, f family) string
}{
	{"TCP_INFO", "the network's segments", "lo's segments", "lo's segments", segments},
	{"DSCP", "marked", "unmarked", "unmarked", dscp},
	{"A foreign address can be bound", "refused", "bound", "bound", bindForeign},
	{"A second worker with SO_REUSEPORT alone", "bound", "bound", "refused", func(t *testing.T, p *pod, f family) string {
		return secondListener(t, p, f, "so-reuseport")
	}},
	{"A second worker with SO_REUSEPORT and SO_REUSEADDR", "bound", "bound", "bound", func(t *testing.T, p *pod, f family) string {
		return secondListener(t, p, f, "so-reuseport,reuseaddr")
	}},
	{"A listener without SO_REUSEADDR on the port by which a client is seen", "bound", "refused", "refused", func(t *testing.T, p *pod, f family) string {
		return onClientsPort(t, p, f, "")
	}},
	{"A listener with SO_REUSEADDR on the port by which a client is seen", "bound", "bound", "bound", func(t *testing.T, p *pod, f family) string {
		return onClientsPort(t, p, f, ",reuseaddr")
	}},
	{"A client's port below 1024", "kept", "another", "another", privilegedPort},
	{"A transparent listener", "served", "served", "reset", transparentListener},
}

// TestNoLonger compares proxy/README.md with the kernel.
func TestNoLonger(t *testing.T) {
	lab.Need(t, "socat", "nft", "ss")
	text, err := os.ReadFile("../proxy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]func(i int) string{
		"":                  func(i int) string { return noLonger[i].direct },
		contract.ModeNAT:    func(i int) string { return noLonger[i].nat },
		contract.ModeTProxy: func(i int) string { return noLonger[i].tproxy },
	} {
		t.Run("mode "+mode, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{mode: mode, bare: mode == ""})
			for i, c := range noLonger {
				if !strings.Contains(string(text), "| "+c.claim) {
					t.Errorf("proxy/README.md has no row %q", c.claim)
				}
				t.Run(c.claim, func(t *testing.T) {
					p.inFamilies(t, func(t *testing.T, f family) {
						if got := c.look(t, p, f); got != want(i) {
							t.Errorf("%s, want %s", got, want(i))
						}
					})
				})
			}
		})
	}
}

const looksPort = 9000

// listener starts socat as an application that answers with what it gets.
func (p *pod) listener(t *testing.T, f family, options string) *lab.Proc {
	t.Helper()
	proc := p.Pod.StartAs(app, "socat", socatListen(f, looksPort, options), "EXEC:cat").WaitListen(looksPort)
	t.Cleanup(proc.Kill)
	return proc
}

func socatListen(f family, port int, options string) string {
	if options != "" && options[0] != ',' {
		options = "," + options
	}
	return fmt.Sprintf("TCP%s-LISTEN:%d,fork%s", f.name[len(f.name)-1:], port, options)
}

// talk makes a client's connection that the application has answered.
func (p *pod) talk(t *testing.T, f family, from string) (net.Conn, error) {
	t.Helper()
	conn, err := p.Client.Dial("tcp", from, addr(f.pod, looksPort))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("hello")); err != nil {
		return nil, err
	}
	_, err = conn.Read(make([]byte, 16))
	return conn, err
}

func (p *pod) mustTalk(t *testing.T, f family, from string) net.Conn {
	t.Helper()
	conn, err := p.talk(t, f, from)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// applications are the application's sockets, not the sidecar's, as ss shows them.
func (p *pod) applications(f family) (all string) {
	for line := range strings.Lines(p.Pod.Run("ss", "-tnieHO", "-"+f.name[len(f.name)-1:], "state", "established", "sport", "=", fmt.Sprint(looksPort))) {
		if strings.Contains(line, fmt.Sprintf("uid:%d ", appUID)) {
			all += line
		}
	}
	return all
}

func segments(t *testing.T, p *pod, f family) string {
	p.listener(t, f, "reuseaddr")
	p.mustTalk(t, f, f.client)
	m := regexp.MustCompile(` advmss:(\d+)`).FindStringSubmatch(p.applications(f))
	if m == nil {
		t.Fatalf("no advmss in %s", p.applications(f))
	}
	if n, _ := strconv.Atoi(m[1]); n > 9000 {
		return "lo's segments"
	}
	return "the network's segments"
}

func dscp(t *testing.T, p *pod, f family) string {
	table, match := "t"+f.name, "ip"
	options := "reuseaddr,tos=184"
	if f == v6 {
		match, options = "ip6", "reuseaddr,setsockopt-int=41:67:184" // IPPROTO_IPV6, IPV6_TCLASS
	}
	p.Client.Run("nft", fmt.Sprintf("add table inet %[1]s; add chain inet %[1]s c { type filter hook input priority 0; }; "+
		"add rule inet %[1]s c tcp sport %[2]d %[3]s dscp ef counter", table, looksPort, match))
	p.listener(t, f, options)
	p.mustTalk(t, f, f.client)
	if strings.Contains(p.Client.Run("nft", "list", "table", "inet", table), "counter packets 0 ") {
		return "unmarked"
	}
	return "marked"
}

func bindForeign(t *testing.T, p *pod, f family) string {
	return p.listens(t, socatListen(f, 9001, "bind="+bracketed(f, f.foreign)))
}

func secondListener(t *testing.T, p *pod, f family, options string) string {
	p.listener(t, f, options)
	p.mustTalk(t, f, f.client)
	return p.listens(t, socatListen(f, looksPort, options))
}

func onClientsPort(t *testing.T, p *pod, f family, options string) string {
	p.listener(t, f, "reuseaddr")
	p.mustTalk(t, f, f.client)
	m := regexp.MustCompile(`:(\d+)\s+(users|uid|timer|ino)`).FindStringSubmatch(p.applications(f))
	if m == nil {
		t.Fatalf("no peer in %s", p.applications(f))
	}
	port, _ := strconv.Atoi(m[1])
	return p.listens(t, socatListen(f, port, options))
}

// listens reports whether the application can bind one more listener.
func (p *pod) listens(t *testing.T, listener string) (outcome string) {
	t.Helper()
	proc := p.Pod.StartAs(app, "socat", listener, "EXEC:cat")
	t.Cleanup(proc.Kill)
	lab.Eventually(t, "it listens, or is refused", func() error {
		select {
		case <-proc.Done():
			if out := proc.Output(); !strings.Contains(out, "in use") && !strings.Contains(out, "annot assign") {
				t.Fatalf("socat: %s", out)
			}
			outcome = "refused"
			return nil
		default:
		}
		if out := p.Pod.Run("ss", "-ltnpH"); !strings.Contains(out, fmt.Sprintf("pid=%d,", proc.Pid())) {
			return errors.New(out)
		}
		outcome = "bound"
		return nil
	})
	return outcome
}

func bracketed(f family, ip string) string {
	if f == v6 {
		return "[" + ip + "]"
	}
	return ip
}

func privilegedPort(t *testing.T, p *pod, f family) string {
	p.listener(t, f, "reuseaddr")
	p.mustTalk(t, f, addr(f.client, 1023))
	if strings.Contains(p.applications(f), addr(f.client, 1023)) {
		return "kept"
	}
	return "another"
}

func transparentListener(t *testing.T, p *pod, f family) string {
	proc := p.Pod.Start("socat", socatListen(f, looksPort, "reuseaddr,ip-transparent"), "EXEC:cat").WaitListen(looksPort)
	t.Cleanup(proc.Kill)
	switch _, err := p.talk(t, f, f.client); {
	case errors.Is(err, unix.ECONNRESET):
		return "reset"
	case err != nil:
		return err.Error()
	}
	return "served"
}
