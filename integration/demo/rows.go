package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// clients are the programs that connect to the application from one of the client's
// addresses. Each returns the local address of its socket and the application's
// first line.
var clients = []struct {
	name string
	ask  func(t lab.TB, ns *lab.NS, from string, to netip.AddrPort) (own, line string)
}{
	{"curl", curl},
	{"nc", netcat},
}

func curl(t lab.TB, ns *lab.NS, from string, to netip.AddrPort) (own, line string) {
	out := ns.Run("curl", "-sS", "--noproxy", "*", "--max-time", "20", "--interface", from, "-w", "%{local_ip} %{local_port}",
		fmt.Sprintf("http://%s/", to))
	line, own, _ = strings.Cut(out, "\n")
	ip, port, _ := strings.Cut(own, " ")
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + port, line
}

// netcat keeps nc's connection open until ss has shown its address, then half-closes
// it and expects the echo.
func netcat(t lab.TB, ns *lab.NS, from string, to netip.AddrPort) (own, line string) {
	stdin, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer stdin.Close()
	defer w.Close()
	cmd := exec.Command("nc", "-N", "-s", from, to.Addr().String(), fmt.Sprint(to.Port()))
	cmd.Stdin = stdin
	nc := ns.StartCmd(cmd)
	fmt.Fprintln(w, "hello")
	nc.WaitLog("hello\n")
	f := strings.Fields(ns.Run("ss", "-Htn", "state", "established", "dst", to.String()))
	if len(f) != 4 {
		t.Fatalf("ss: not one connection to %s: %q", to, f)
	}
	w.Close()
	if err := nc.Wait(); err != nil {
		t.Fatalf("nc: %v\n%s", err, nc.Output())
	}
	line, echo, _ := strings.Cut(nc.Output(), "\n")
	if echo != "hello\n" {
		t.Fatalf("nc: hello came back as %q", echo)
	}
	return f[2], line
}

// exactness is how much of the client's address and port the application saw.
type exactness int

const (
	neither exactness = iota
	addressOnly
	addressAndPort
)

func (e exactness) String() string { return [...]string{"no", "address", "address, port"}[e] }

// promised is the least that an application sees in a mode.
var promised = map[string]exactness{
	contract.ModeNAT:    addressAndPort,
	contract.ModeTProxy: addressOnly,
}

// judge compares the client's address with the one that the application saw; ok
// reports whether that is what the mode promises. The plain proxy is meant to show
// neither address nor port.
func judge(mode string, client, saw netip.AddrPort) (got exactness, ok bool) {
	switch {
	case client == saw:
		got = addressAndPort
	case client.Addr() == saw.Addr():
		got = addressOnly
	}
	if mode == plainMode {
		return got, got == neither
	}
	return got, got >= promised[mode]
}

// rows runs each client program over each family.
func (d *demo) rows(p *pod) {
	for _, addr := range p.addrs {
		from, to := lab.Client4, netip.AddrPortFrom(addr, p.port)
		if addr.Is6() {
			from = lab.Client6
		}
		for _, c := range clients {
			own, line := c.ask(d.t, d.net.Client, from, to)
			if p.mode != plainMode {
				// A connection that bypassed the sidecar would look exact, too.
				p.proc.WaitLog("client=" + own + " dst=" + to.String())
			}
			d.row(p, c.name, d.addrPort(own), d.addrPort(field(line, "peer")))
		}
	}
}

func (d *demo) row(p *pod, program string, client, saw netip.AddrPort) {
	family := "IPv4"
	if client.Addr().Is6() {
		family = "IPv6"
	}
	got, ok := judge(p.mode, client, saw)
	colour := green
	switch {
	case !ok:
		colour = red
		d.broken++
	case got == neither:
		colour = yellow
	}
	caps := d.status(p).capabilities()
	d.line(
		cell{p.mode, bold}, cell{family, 0}, cell{program, 0}, cell{client.String(), 0},
		cell{saw.String(), colour}, cell{got.String(), colour}, cell{caps, 0},
	)
}

// field is the value of key=value in a line of such pairs.
func field(line, key string) string {
	for _, f := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(f, key+"="); ok {
			return v
		}
	}
	return ""
}

func (d *demo) addrPort(s string) netip.AddrPort {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		d.t.Fatalf("not an address and a port: %q", s)
	}
	return ap
}
