package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	appPort   = 8080
	iperfPort = 5201
	appUID    = 1000
)

// site is a variant's client, node and pod, with the application and the proxy in
// the pod. All sites exist at the same time; one at a time is loaded.
type site struct {
	variant
	t    lab.TB
	self string // our own binary, where every user can run it
	dir  string // for files of the proxy

	net     *lab.Net
	process *lab.Proc // the proxy
	next    uint64    // which of the client's ports is next
}

// family is one IP family of a site.
type family struct {
	name    string
	pod     netip.Addr
	sources []netip.Addr // the client's
}

// sourceCount is the number of the client's addresses, enough to use no address and
// port twice within TIME_WAIT. It is a prime: see package traffic.
const sourceCount = 37

var v4, v6 = newFamily("IPv4", lab.Pod4, "192.168.1.10"), newFamily("IPv6", lab.Pod6, "fd00:1::10")

func newFamily(name, pod, first string) family {
	f := family{name: name, pod: netip.MustParseAddr(pod)}
	for a := netip.MustParseAddr(first); len(f.sources) < sourceCount; a = a.Next() {
		f.sources = append(f.sources, a)
	}
	return f
}

// newSite makes everything and starts the application and the proxy.
func newSite(t lab.TB, v variant, self, dir string) *site {
	s := &site{variant: v, t: t, self: self, dir: filepath.Join(dir, strings.ReplaceAll(v.name, "/", "-")), net: lab.NewNet(t)}
	check := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %s: %v", v.name, what, err)
		}
	}
	check("make a directory", os.Mkdir(s.dir, 0o755))
	check("give it to the proxy", os.Chown(s.dir, contract.ProxyUID, contract.ProxyUID))
	s.net.Wire()
	var addrs strings.Builder
	for _, f := range []family{v4, v6} {
		for _, a := range f.sources {
			fmt.Fprintf(&addrs, "addr add %s/%d dev eth0 nodad\n", a, map[bool]int{true: 24, false: 64}[a.Is4()])
		}
	}
	check("add addresses", s.batch(s.net.Client, addrs.String(), "ip", "-batch", "-"))

	for _, ns := range []*lab.NS{s.net.Client, s.net.Pod} {
		// Machines differ in their default, bbr or cubic; a namespace may always
		// choose reno. Without loss they are equal.
		ns.Sysctl("net.ipv4.tcp_congestion_control", "reno")
	}
	// No proxy dials from a client's port range: collisions of the two are not
	// what is measured.
	s.net.Pod.Sysctl("net.ipv4.ip_local_port_range", "1024 32767")
	if v.rules != nil {
		check("program the pod", v.rules(s))
	}
	app := &start{user: lab.User{UID: appUID, NoNewPrivs: true}, args: []string{self, "serve", strconv.Itoa(appPort)}, env: []string{traffic.Quietly}}
	app.run(s).WaitListen(appPort)
	app.args = []string{"iperf3", "-s", "-p", strconv.Itoa(iperfPort), "--logfile", "/dev/null"}
	app.run(s).WaitListen(iperfPort)
	if v.proxy != nil {
		s.process = v.proxy(s).run(s).WaitListen(contract.ProxyPort)
	}
	return s
}

// batch runs a program with text as its standard input.
func (s *site) batch(ns *lab.NS, text string, args ...string) error {
	path, err := lab.Look(args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := ns.TryCmd(cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, out)
	}
	return nil
}

// loaded is what a client measured, and the proxy's CPU time meanwhile.
type loaded struct {
	traffic.Result
	proxyCPU float64 // seconds
}

// load runs a client and returns what it measured.
func (s *site) load(f family, spec traffic.Spec) (r loaded, err error) {
	before, err := s.usage()
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), spec.Duration+time.Minute)
	defer cancel()
	out, err := s.net.Client.TryCmd(s.client(ctx, f, spec))
	if err != nil {
		s.next += 1000 // whatever it used
		return r, fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	if err := json.Unmarshal([]byte(out), &r.Result); err != nil {
		return r, err
	}
	s.next = r.Next
	after, err := s.usage()
	r.proxyCPU = (after.cpu - before.cpu).Seconds()
	return r, err
}

// usage is the proxy's usage; zero where there is no proxy.
func (s *site) usage() (usage, error) {
	if s.process == nil {
		return usage{}, nil
	}
	return usageOf(s.process.Pid())
}

// client is the command of a client.
func (s *site) client(ctx context.Context, f family, spec traffic.Spec) *exec.Cmd {
	spec.Target = netip.AddrPortFrom(f.pod, appPort)
	spec.Sources, spec.First, spec.ExactPort = f.sources, s.next, s.exactPort
	cmd, err := traffic.Load(ctx, s.self, spec)
	if err != nil {
		s.t.Fatalf("spec of a load: %v", err)
	}
	return cmd
}
