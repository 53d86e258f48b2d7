package main

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const (
	appUID    = 1000 // the application's and socat's
	plainMode = "plain"
	plainPort = 8080 // where socat accepts
)

// demo is one run.
type demo struct {
	*screen
	bin    string // the programs
	broken int    // number of results that are not as promised

	t     lab.TB
	net   *lab.Net
	cni   *lab.CNI
	users string // copies of the programs that are run as unprivileged users
}

// story is the demo from the first line to the last.
func (d *demo) story(t lab.TB) {
	d.t = t
	d.build()
	d.intro()
	nat := d.sidecar(contract.ModeNAT, d.net.Pod)
	tproxy := d.sidecar(contract.ModeTProxy, lab.New(t, "pod"))
	plain := d.plain(lab.New(t, "pod"))

	d.header()
	for _, p := range []*pod{nat, tproxy, plain} {
		d.rows(p)
	}
	d.captions()
	d.processes(nat, tproxy, plain)
	d.ruleset(nat.ns)
	d.verdict()
}

// build makes what all pods share.
func (d *demo) build() {
	bin, err := filepath.Abs(d.bin)
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	users := map[string]string{}
	for _, p := range []string{"tproxy-proxy", "echo-server"} {
		users[p] = filepath.Join(bin, p)
	}
	d.users = lab.Copies(d.t, users)
	list := lab.Conflist{Chained: []any{map[string]any{
		"type":         contract.PluginType,
		"capabilities": map[string]bool{contract.AnnotationsCapability: true},
	}}}
	d.cni = lab.NewCNI(d.t, list, bin, filepath.Join(bin, "upstream"))
	d.net = lab.NewNet(d.t)
}

// pod has an application, and a proxy that takes its connections.
type pod struct {
	mode    string
	ns      *lab.NS
	addrs   []netip.Addr // one of each family
	port    uint16       // where clients connect
	program string       // the proxy
	proc    *lab.Proc
}

// attach adds a pod through cnitool and starts the application in it.
func (d *demo) attach(mode string, ns *lab.NS, annotations map[string]string) *pod {
	a := lab.Attachment{
		CNI: d.cni, Node: d.net.Node, Pod: ns,
		Capabilities: map[string]any{contract.AnnotationsCapability: annotations},
	}
	ns.Up() // as a container runtime does
	p := &pod{mode: mode, ns: ns, port: contract.EchoPort}
	for _, s := range a.Add() {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			d.t.Fatalf("cnitool add: %v", err)
		}
		p.addrs = append(p.addrs, addr)
	}
	// Both clients speak first: no greeting to one that is slow.
	ns.StartAs(lab.User{UID: appUID, NoNewPrivs: true}, filepath.Join(d.users, "echo-server"), "--wait", "1m").
		WaitListen(contract.EchoPort)
	return p
}

// sidecar makes a pod with our sidecar, which has no capability in nat mode and
// only NET_RAW in tproxy mode.
func (d *demo) sidecar(mode string, ns *lab.NS) *pod {
	p := d.attach(mode, ns, map[string]string{contract.AnnotationPrefix + "mode": mode})
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	if mode == contract.ModeTProxy {
		user.Caps = []string{"net_raw"}
	}
	p.program = "tproxy-proxy --mode " + mode
	p.proc = ns.StartAs(user, filepath.Join(d.users, "tproxy-proxy"), "--mode", mode)
	p.proc.WaitListen(contract.ProxyPort, contract.AdminPort)
	return p
}

// plain makes a pod without annotations and with an ordinary proxy.
func (d *demo) plain(ns *lab.NS) *pod {
	p := d.attach(plainMode, ns, nil)
	p.port = plainPort
	p.program = "socat"
	p.proc = ns.StartAs(lab.User{UID: appUID, NoNewPrivs: true}, "socat",
		fmt.Sprintf("TCP6-LISTEN:%d,ipv6only=0,reuseaddr,fork", plainPort),
		fmt.Sprintf("TCP:127.0.0.1:%d", contract.EchoPort))
	p.proc.WaitListen(plainPort)
	return p
}
