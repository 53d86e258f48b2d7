package integration

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// squatArg is the first argument of a test binary that listens on every free port of a
// range until its stdin is closed.
const squatArg = "squat"

// squatEach is how many ports one process squats on: the limit of open files of
// ordinary users may be 20,000.
const squatEach = 16_384

func squatMain(args []string) {
	low, _ := strconv.Atoi(args[0])
	n := 0
	for port := low; port < low+squatEach && port < 65536; port++ {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if unix.Bind(fd, &unix.SockaddrInet6{Port: port}) != nil || unix.Listen(fd, 1) != nil {
			unix.Close(fd) // the port is taken
			continue
		}
		n++
	}
	fmt.Println("squatting on", n)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// TestSquatted: if an application listens on all ports from which the sidecar could dial,
// every client is refused. The sidecar logs so, with the application's uid, and is not
// ready until the ports are free again.
func TestSquatted(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		for _, f := range p.fams() {
			p.wantExactAt(t, f.client, addr(f.pod, webPort))
		}
		ready := func(f family) (string, error) {
			return p.Node.Try("curl", "-sS", "--max-time", "20", "-w", " %{http_code}", "http://"+addr(f.pod, contract.AdminPort)+"/readyz")
		}
		high := contract.SpoofPortHigh
		if p.mode == contract.ModeNAT {
			high = 65535
		}
		var squatters []*lab.Proc
		for low := contract.SpoofPortLow; low <= high; low += squatEach {
			squatters = append(squatters, p.hold(t, p.Pod, app.Args(attacker(t), squatArg, fmt.Sprint(low))...))
		}
		for _, s := range squatters {
			s.WaitLog("squatting on")
		}
		for _, f := range p.fams() {
			if out, err := p.Client.Try("curl", "-sS", "--max-time", "20", "http://"+addr(f.pod, webPort)); err == nil {
				t.Errorf("%s: a client is served: %s", f.name, out)
			}
		}
		lab.Eventually(t, "the reason", func() error {
			out, err := ready(p.fams()[0])
			if err == nil && (!strings.HasSuffix(out, " 503") || !strings.Contains(out, "uid 1000 of this pod listens on")) {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
		p.sidecar.WaitLog("not ready: clients are refused")
		p.Node.Run("curl", "-sSf", "http://"+addr(v4.pod, contract.AdminPort)+"/healthz")
		p.wantPorts(t)
		for _, s := range squatters {
			s.Kill()
		}
		lab.Eventually(t, "ready again", func() error {
			out, err := ready(p.fams()[0])
			if err == nil && !strings.HasSuffix(out, " 200") {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
		p.sidecar.WaitLog("there are ports for clients again")
		for _, f := range p.fams() {
			p.wantExactAt(t, f.client, addr(f.pod, webPort))
		}
	})
}

// wantPorts: however many listeners there are, the metrics have few of them, and the
// sidecar's own.
func (p *pod) wantPorts(t *testing.T) {
	t.Helper()
	ports := 0
	now := p.scrape(t)
	for key := range now {
		if strings.HasPrefix(key, "accept_queue_length{") {
			ports++
		}
	}
	if _, own := now[fmt.Sprintf("accept_queue_limit{%d}", contract.ProxyPort)]; ports != 64 || !own {
		t.Errorf("%d ports, the sidecar's among them: %v", ports, own)
	}
}
