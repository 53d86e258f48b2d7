package integration

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/samples"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestMetrics: what is counted is what real clients did, step by step, and what the log
// says in the end.
func TestMetrics(t *testing.T) {
	lab.Need(t, "curl", "nc", "socat", "prlimit")
	const files = 300 // connections: half of what is left of it
	inModes(t, setup{bare: true, files: files}, func(t *testing.T, p *pod) {
		p.manySources(t)
		p.start("--log-format", "json", "--log-level", "debug") // also what says little
		p.nginx(t)
		first := p.scrape(t)
		guard := "packet_guard{" + string(p.guard(t)) + "}"
		if first[guard] != 1 {
			t.Errorf("at the start %s is %g", guard, first[guard])
		}
		for key, v := range first {
			if counted(key) && v != 0 && !strings.HasPrefix(key, "build_info") && key != "ready" && key != "connections_limit" && key != guard {
				t.Errorf("at the start %s is %g", key, v)
			}
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(first)), func(key string) bool {
			return strings.HasPrefix(key, "build_info{") && strings.Contains(key, "{"+p.mode+"}")
		}) {
			t.Errorf("no build_info of mode %s in %v", p.mode, first)
		}
		// A port with a listener, so that it is intercepted, that refuses the sidecar.
		p.Pod.StartAs(app, "socat", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,fork", refusedPort), "PIPE").WaitListen(refusedPort)
		p.Pod.Run("nft", fmt.Sprintf("add table inet lab; add chain inet lab refuse { type filter hook input priority 10; }; "+
			"add rule inet lab refuse iifname lo tcp dport %d reject with tcp reset", refusedPort))
		p.inFamilies(t, func(t *testing.T, f family) {
			p.countedEnds(t, f)
			p.countedClash(t, f)
			p.countedMoving(t, f)
			p.countedQueue(t, f)
			p.countedLimit(t, f, int(first["connections_limit"]))
		})
		p.wantOfKernel(t)
		p.wantAsLogged(t)
		p.countedDrain(t)
	})
}

// refusedPort is where the application refuses.
const refusedPort = 8081

// countedEnds: a request that is answered, one that is refused, a client's reset
// before its first byte and after it.
func (p *pod) countedEnds(t *testing.T, f family) {
	before := p.scrape(t)
	if out, err := p.curl(f, "http://"+addr(f.pod, webPort)+"/"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.wantChange(t, before, p.plus(samples.Samples{"connections_closed_total{closed}": 1}))

	before = p.scrape(t)
	if out, err := p.curl(f, "http://"+addr(f.pod, refusedPort)+"/"); err == nil {
		t.Fatalf("answered: %s", out)
	}
	refused := samples.Samples{"connections_accepted_total": 1, "connections_closed_total{refused}": 1, "dial_errors_total{ECONNREFUSED}": 1}
	if p.mode == contract.ModeTProxy { // an earlier connection's TIME_WAIT may have refused
		refused["dial_errors_total{ECONNREFUSED}"], refused["dial_retries_total"] = 2, 1
	}
	p.wantChange(t, before, refused)

	for _, c := range []struct{ end, says string }{{"client silent", ""}, {"client reset", "GET"}} {
		before = p.scrape(t)
		client, say := talker(t, p.Client, "socat", "-", "TCP:"+addr(f.pod, webPort)+",bind="+addr(f.client, 0)+",linger=0")
		say(c.says)
		p.wantChange(t, before, p.plus(samples.Samples{"connections_active": 1, "relayed_bytes_total{up}": float64(len(c.says))}))
		client.Kill()
		p.wantChange(t, before, p.plus(samples.Samples{"connections_closed_total{" + c.end + "}": 1}))
	}
}

// countedClash: a program in the pod listens on the client's port, so in nat mode another
// one is used. In tproxy mode it always is.
func (p *pod) countedClash(t *testing.T, f family) {
	const port = 20_000
	holder := p.Pod.StartAs(app, "nc", "-lk", f.any, strconv.Itoa(port)).WaitListen(port)
	defer holder.Kill()
	before := p.scrape(t)
	if out, err := p.curl(f, "--local-port", strconv.Itoa(port), "http://"+addr(f.pod, webPort)+"/"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := samples.Samples{
		"connections_accepted_total": 1, "dial_duration_seconds": 1, "connections_closed_total{closed}": 1,
		"spoof_total{address}": 1, "dial_errors_total{EADDRINUSE}": 1, "dial_retries_total": 1,
	}
	if p.mode == contract.ModeTProxy {
		want = p.plus(samples.Samples{"connections_closed_total{closed}": 1})
	}
	p.wantChange(t, before, want)
}

// countedMoving: bytes are counted while the connection is open, and a half-closed one as
// such.
func (p *pod) countedMoving(t *testing.T, f family) {
	const port, size = 9000, 1 << 20
	end := filepath.Join(dir(t, appUID), "end")
	server := p.Pod.StartAs(app, "socat", "-t600", "TCP6-LISTEN:"+strconv.Itoa(port)+",ipv6only=0,fork,reuseaddr",
		fmt.Sprintf("SYSTEM:cat >/dev/null; until test -e %s; do sleep .05; done; echo bye", end)).WaitListen(port)
	defer server.Kill()
	before := p.scrape(t)
	_, say := talker(t, p.Client, "sh", "-c", fmt.Sprintf("(head -c %d /dev/zero; read go) | nc -N %s %d", size, f.pod, port))
	p.wantChange(t, before, p.plus(samples.Samples{"connections_active": 1, "relayed_bytes_total{up}": size, "relayed_bytes_total{down}": 0}))
	say("\n") // nc sends its FIN
	p.wantChange(t, before, p.plus(samples.Samples{"connections_active": 1, "connections_half_closed": 1, "relayed_bytes_total{up}": size}))
	write(t, end, "")
	p.wantChange(t, before, p.plus(samples.Samples{"connections_closed_total{closed}": 1, "relayed_bytes_total{up}": size, "relayed_bytes_total{down}": float64(len("bye\n"))}))
}

// countedQueue: an application that does not accept.
func (p *pod) countedQueue(t *testing.T, f family) {
	const port, backlog = 9001, 2
	server := p.Pod.StartAs(app, "socat", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,fork,reuseaddr,backlog=%d", port, backlog), "PIPE").WaitListen(port)
	before := p.scrape(t)
	server.Halt()
	var clients []net.Conn
	for range backlog + 3 { // the kernel queues one more than backlog
		clients = append(clients, p.dial(t, f, port))
	}
	queue := func(what string) string { return fmt.Sprintf("accept_queue_%s{%d}", what, port) }
	lab.Eventually(t, "a full queue", func() error {
		now := p.scrape(t)
		if now[queue("length")] != backlog+1 || now[queue("limit")] != backlog || now["listen_overflows_total"] <= before["listen_overflows_total"] ||
			now["listen_drops_total"] <= before["listen_drops_total"] {
			return fmt.Errorf("%g of %g, overflows %g, drops %g", now[queue("length")], now[queue("limit")], now["listen_overflows_total"], now["listen_drops_total"])
		}
		return nil
	})
	server.Signal(syscall.SIGCONT)
	for _, c := range clients {
		c.Close()
	}
	p.wantNone(t)
	server.Kill()
	lab.Eventually(t, "no queue", func() error {
		if now := p.scrape(t); now["connections_active"] != 0 || slices.Contains(slices.Collect(maps.Keys(now)), queue("length")) {
			return fmt.Errorf("%g active, queue %g", now["connections_active"], now[queue("length")])
		}
		return nil
	})
}

// countedLimit: more clients than there may be connections wait in the sidecar's own
// queue.
func (p *pod) countedLimit(t *testing.T, f family, limit int) {
	const more = 5
	before := p.scrape(t)
	fds := p.crowd(t, f, 0, limit+more)
	lab.Eventually(t, "the limit", func() error {
		now := p.scrape(t)
		if int(now["connections_active"]) != limit || now["accept_queue_length{5000}"] != more || now["accept_paused_total{limit}"] <= before["accept_paused_total{limit}"] {
			return fmt.Errorf("%g active of %d, %g in the queue, %g pauses", now["connections_active"], limit, now["accept_queue_length{5000}"], now["accept_paused_total{limit}"])
		}
		return nil
	})
	for _, fd := range fds {
		unix.Close(fd)
	}
	lab.Eventually(t, "all served", func() error {
		now := p.scrape(t)
		if n := now["connections_accepted_total"] - before["connections_accepted_total"]; int(n) != limit+more || now["connections_active"] != 0 {
			return fmt.Errorf("%g accepted, %g active", n, now["connections_active"])
		}
		return nil
	})
}

// wantOfKernel compares with what the kernel says elsewhere.
func (p *pod) wantOfKernel(t *testing.T) {
	lab.Eventually(t, "the kernel's figures", func() error {
		now := p.scrape(t)
		_, tracked := now["conntrack_entries"]
		if tracked != (p.mode == contract.ModeNAT) {
			return fmt.Errorf("%s mode has conntrack's figures: %v", p.mode, tracked)
		}
		if tracked {
			limit := p.Pod.Run("cat", "/proc/sys/net/netfilter/nf_conntrack_max")
			if strings.TrimSpace(limit) != fmt.Sprint(int(now["conntrack_limit"])) || now["conntrack_entries"] == 0 {
				return fmt.Errorf("conntrack %g of %g, want of %s", now["conntrack_entries"], now["conntrack_limit"], limit)
			}
		}
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.sidecar.Pid()))
		// One is the scrape's own connection.
		if n := int(now["process_open_fds"]); n != len(open) && n != len(open)+1 {
			return fmt.Errorf("%d open files, want %d (%v)", n, len(open), err)
		}
		return nil
	})
}

// wantAsLogged compares the counters with the log's lines.
func (p *pod) wantAsLogged(t *testing.T) {
	t.Helper()
	lab.Eventually(t, "the log and the counters agree", func() error {
		var log samples.Log
		_, _ = log.Write([]byte(p.sidecar.Output()))
		logged := log.Seen()
		var faults []error
		now := p.scrape(t)
		for key := range now {
			if strings.HasPrefix(key, "connections_closed_total") || strings.HasPrefix(key, "relayed_bytes_total") || key == "connections_accepted_total" {
				if now[key] != logged[key] {
					faults = append(faults, fmt.Errorf("%s: %g, the log has %g", key, now[key], logged[key]))
				}
			}
		}
		if now["relayed_bytes_total{up}"] == 0 || now["log_lines_lost_total"] != 0 {
			faults = append(faults, fmt.Errorf("%g bytes up, %g lines lost", now["relayed_bytes_total{up}"], now["log_lines_lost_total"]))
		}
		return errors.Join(faults...)
	})
}

// countedDrain: after SIGTERM the sidecar shows what it waits for.
func (p *pod) countedDrain(t *testing.T) {
	before := p.scrape(t)
	client := p.dial(t, v4, webPort)
	p.wantChange(t, before, p.plus(samples.Samples{"connections_active": 1}))
	p.sidecar.Signal(syscall.SIGTERM)
	p.wantChange(t, before, p.plus(samples.Samples{"connections_active": 1, "ready": -1, "not_ready{draining}": 1}))
	client.Close()
	if err := p.sidecar.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}
