package main

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const modeTProxy = contract.ModeTProxy

// ports of the real applications.
var ports = struct{ Closing, Keeping, HAProxy, Socat, IPerf3 int }{8081, 8082, 8083, 8084, 5201}

// program is a real client with a real application: a row of the report.
type program struct {
	name string
	run  func(s *site, f family, from netip.Addr, round int) (cell, error)
}

// programs run one after the other in each round.
var programs = []program{
	{"curl, nginx", curl(func() int { return ports.Closing })},
	{"curl, HAProxy", curl(func() int { return ports.HAProxy })},
	{"wrk, nginx", wrk},
	{"iperf3", iperf3},
	{"socat, socat", socat},
}

// tools are what the soak needs of the machine. `make soak` installs them.
var tools = []string{"curl", "haproxy", "ip", "iperf3", "nft", "nginx", "setpriv", "socat", "wrk"}

var (
	//go:embed apps/nginx.conf
	nginxConf string
	//go:embed apps/haproxy.cfg
	haproxyConf string
	//go:embed apps/peer.lua
	peerLua string
)

func (s *site) startRealApps() {
	for name, text := range map[string]string{"nginx.conf": nginxConf, "haproxy.cfg": haproxyConf, "peer.lua": peerLua} {
		var b bytes.Buffer
		err := template.Must(template.New(name).Parse(text)).Execute(&b, ports)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, name), b.Bytes(), 0o644)
		}
		if err != nil {
			s.t.Fatalf("write %s: %v", name, err)
		}
	}
	s.startApp(nil, []int{ports.Closing, ports.Keeping}, "nginx", "-e", "stderr", "-p", s.dir, "-c", "nginx.conf")
	s.startApp(nil, []int{ports.HAProxy}, "haproxy", "-db", "-f", "haproxy.cfg")
	s.startApp(nil, []int{ports.IPerf3}, "iperf3", "-s", "-p", fmt.Sprint(ports.IPerf3), "--logfile", "/dev/null")
	// The peer as socat saw it, then an echo.
	s.startApp(nil, []int{ports.Socat}, "socat", "-t60", fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,reuseaddr,fork,backlog=100", ports.Socat),
		`SYSTEM:echo "$SOCAT_PEERADDR $SOCAT_PEERPORT"; cat`)
}

// target is a URL at the pod.
func target(f family, port int) string {
	return fmt.Sprintf("http://%s/", netip.AddrPortFrom(f.pod, uint16(port)))
}

// seen compares what an application saw with the client's own socket.
func (s *site) seen(c *cell, saw, own string) error {
	a, aport, err := endOf(saw)
	b, bport, err2 := endOf(own)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	c.Peers++
	if aport != bport {
		c.Others++
	}
	if a != b || aport != bport && s.mode != modeTProxy {
		return fmt.Errorf("the application saw the peer %s, but the client is %s", saw, own)
	}
	return nil
}

// endOf reads "address port", the address in brackets or not.
func endOf(text string) (a netip.Addr, port string, err error) {
	addr, port, _ := strings.Cut(strings.TrimSpace(text), " ")
	a, err = netip.ParseAddr(strings.Trim(addr, "[]"))
	return a.Unmap(), port, err
}

// curl makes many connections, one for each request, from a port that the kernel chooses.
func curl(port func() int) func(*site, family, netip.Addr, int) (cell, error) {
	const requests = 300
	return func(s *site, f family, from netip.Addr, _ int) (c cell, err error) {
		out, err := output(s.net.Client, command("curl", "-sS", "--noproxy", "*", "--max-time", "60", "--interface", from.String(),
			"-w", "%{local_ip} %{local_port}\n", fmt.Sprintf("%s[1-%d]", target(f, port()), requests)))
		if err != nil {
			return c, err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) != 2*requests {
			return c, fmt.Errorf("%d lines of %d requests: %s", len(lines), requests, last(out))
		}
		for i := 0; i < len(lines); i += 2 {
			c.Conns++
			c.Bytes += int64(len(lines[i]) + 1)
			if err := s.seen(&c, lines[i], lines[i+1]); err != nil {
				return c, err
			}
		}
		return c, nil
	}
}

// wrk makes many requests on few connections; the address is compared in each answer.
func wrk(s *site, f family, _ netip.Addr, _ int) (c cell, err error) {
	const conns = 32
	own := f.client.String() // wrk binds no address
	out, err := output(s.net.Client, command("wrk", "-t1", fmt.Sprintf("-c%d", conns), "-d3s", "--timeout", "2m", "-s", filepath.Join(s.dir, "peer.lua"),
		target(f, ports.Keeping), "--", own))
	if err != nil {
		return c, err
	}
	var bad, faults int64
	_, text, _ := strings.Cut(out, "\nrequests ")
	if _, err := fmt.Sscanf(text, "%d bytes %d bad %d errors %d", &c.Peers, &c.Bytes, &bad, &faults); err != nil || c.Peers == 0 || bad+faults > 0 {
		return c, fmt.Errorf("wrk from %s: %d wrong peers, %d errors (%v): %s", own, bad, faults, err, last(out))
	}
	c.Conns = conns + 1 // the first only finds out whether it can connect
	return c, nil
}

// iperf3 sends on two connections in each direction, beside its own for control. Its
// server is busy, or does not listen, while it tidies up after the last test.
func iperf3(s *site, f family, from netip.Addr, _ int) (c cell, err error) {
	for _, direction := range [][]string{nil, {"-R"}} {
		args := append([]string{"iperf3", "-J", "-c", f.pod.String(), "-p", fmt.Sprint(ports.IPerf3), "-B", from.String(), "-P2", "-t1"}, direction...)
		out, err := output(s.net.Client, command(args...))
		for began := time.Now(); time.Since(began) < hangs; <-time.After(100 * time.Millisecond) {
			if strings.Contains(out, "server is busy") {
				c.Conns++
			} else if !strings.Contains(out, "Connection refused") {
				break
			}
			out, err = output(s.net.Client, command(args...))
		}
		var report struct {
			Error string
			End   struct {
				Received struct{ Bytes int64 } `json:"sum_received"`
			}
		}
		if err = errors.Join(err, json.Unmarshal([]byte(out), &report)); err == nil && (report.Error != "" || report.End.Received.Bytes == 0) {
			err = fmt.Errorf("iperf3: nothing received: %s", report.Error)
		}
		if err != nil {
			return c, err
		}
		c.Conns += 3
		c.Bytes += report.End.Received.Bytes
	}
	return c, nil
}

// socat half-closes; what comes back must be the peer, as socat in the pod saw it, and
// every byte.
func socat(s *site, f family, addr netip.Addr, round int) (c cell, err error) {
	const conns, firstPort = 10, 20_000
	noise := make([]byte, 100_000)
	_, _ = rand.Read(noise)
	for i := range conns {
		port := firstPort + (round*conns+i)%10_000
		to, from := netip.AddrPortFrom(f.pod, uint16(ports.Socat)), netip.AddrPortFrom(addr, uint16(port))
		began := time.Now()
		out, err := output(s.net.Client, spoken(bytes.NewReader(noise), "socat", "-t60", "-", fmt.Sprintf("TCP:%s,bind=%s,reuseaddr", to, from)))
		if err != nil {
			return c, fmt.Errorf("socat from %s, after %v: %w", from, time.Since(began).Round(time.Millisecond), err)
		}
		c.Conns++
		saw, echo, _ := strings.Cut(out, "\n")
		if err := s.seen(&c, saw, fmt.Sprint(addr, " ", port)); err != nil {
			return c, err
		}
		if echo != string(noise) {
			return c, fmt.Errorf("socat from %s: sent %d bytes, got %d, and they differ", from, len(noise), len(echo))
		}
		c.Bytes += int64(len(noise))
	}
	return c, nil
}
