package integration

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestFaultApplication: the application is killed and started again while clients connect.
// A connection of that moment is refused or reset, as without a sidecar; all others are
// served, and none hangs.
func TestFaultApplication(t *testing.T) {
	lab.Need(t, "curl", "nginx")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		d, server := p.nginx(t)
		w := &watched{pod: p, dir: d}
		f := results.Fault{Name: "the application is killed and started", What: "connections"}
		for range lab.Faults(5) {
			var clients []*lab.Proc
			for _, fam := range p.fams() {
				clients = append(clients, p.Client.Start(append(w.curl(fam, 20, false), "--rate", "20/s")...))
			}
			lab.Eventually(t, "traffic", func() error {
				if !strings.Contains(clients[0].Output(), "=") {
					return fmt.Errorf("%q", clients[0].Output())
				}
				return nil
			})
			server.Kill()
			f.Injected++
			_, server = p.nginxAgain(t, d)
			for _, c := range clients {
				_ = c.Wait()
				lost, of := w.judge(t, c.Output(), nil)
				f.Lost, f.Of = f.Lost+lost, f.Of+of
			}
			if lost, of := w.visit(t, 2, false); lost > 0 {
				t.Errorf("with the application up %d of %d connections are lost", lost, of)
			}
		}
		p.wantNone(t)
		w.wantOnlyClients(t)
		f.Report(t)
	})
}

// nginxAgain starts the nginx of a directory once more.
func (p *pod) nginxAgain(t *testing.T, d string) (dir_ string, proc *lab.Proc) {
	t.Helper()
	return d, p.Pod.StartAs(app, "nginx", "-e", "stderr", "-c", d+"/nginx.conf").WaitListen(webPort)
}

// TestFaultQueue: the sidecar does not accept for a while, and more clients come than its
// queue takes. The metric says how many the kernel has turned away. They come again by
// themselves, as TCP does, and all are served in the end.
func TestFaultQueue(t *testing.T) {
	lab.Need(t, "curl", "nginx")
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		const limit = 4
		p.Pod.Sysctl("net.core.somaxconn", strconv.Itoa(limit))
		p.Pod.Sysctl("net.ipv4.tcp_syncookies", "0") // with cookies the kernel drops the last segment of the handshake
		p.start()
		w := p.watch(t)
		f := results.Fault{Name: "the sidecar's accept queue overflows", What: "connections"}
		for range lab.Faults(1) {
			before, dropsBefore := p.scrape(t), counter(t, p.Pod, "TcpExtListenDrops")
			p.sidecar.Halt()
			var clients []*lab.Proc
			for range 8 {
				for _, fam := range p.fams() {
					clients = append(clients, p.Client.Start(w.curl(fam, 1, false)...))
				}
			}
			lab.Eventually(t, "the kernel turns clients away", func() error {
				if counter(t, p.Pod, "TcpExtListenDrops") == dropsBefore {
					return fmt.Errorf("still %d", dropsBefore)
				}
				return nil
			})
			p.sidecar.Signal(syscall.SIGCONT)
			for _, c := range clients {
				_ = c.Wait()
				lost, of := w.judge(t, c.Output(), nil)
				f.Lost, f.Of = f.Lost+lost, f.Of+of
			}
			now := p.scrape(t)
			dropped := int(now["listen_drops_total"] - before["listen_drops_total"])
			if kernel := counter(t, p.Pod, "TcpExtListenDrops") - dropsBefore; dropped == 0 || kernel < dropped {
				t.Errorf("the metric says %d, the kernel %d", dropped, kernel)
			}
			f.Injected += dropped
		}
		if f.Lost > 0 {
			t.Errorf("%d of %d connections are lost", f.Lost, f.Of)
		}
		w.wantAsBefore(t)
		f.Report(t)
	})
}

// TestFaultLog: the disk under the sidecar's log is full. Connections are served as ever,
// and the sidecar counts the lines that are lost.
func TestFaultLog(t *testing.T) {
	lab.Need(t, "curl", "nginx")
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
		if p.mode == contract.ModeTProxy {
			user.Caps = []string{"net_raw"}
		}
		p.sidecar = p.Pod.StartAs(user, "sh", "-c", `exec "$@" > /dev/full 2>&1`, "sh", bin(t, "tproxy-proxy"), "--mode", p.mode)
		p.waitReady()
		w := p.watch(t)
		f := results.Fault{Name: "disk full under the sidecar's log", What: "connections"}
		lost, of := w.visit(t, lab.Faults(10), false)
		f.Injected, f.Lost, f.Of = of, lost, of
		if lost > 0 {
			t.Errorf("%d of %d connections are lost", lost, of)
		}
		p.wantNone(t)
		lab.Eventually(t, "the lost lines", func() error {
			if now := p.scrape(t); int(now["log_lines_lost_total"]) < of {
				return fmt.Errorf("%g lines lost, want %d", now["log_lines_lost_total"], of)
			}
			return nil
		})
		w.wantIdle(t)
		f.Report(t)
	})
}
