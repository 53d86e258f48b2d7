package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// shown are the rules and routes that intercept in the nat pod, in the order in
// which a connection meets them. The other rules protect these.
var shown = []struct {
	caption string
	command []string
}{
	{"Inbound connections go to the sidecar, but only to ports where the application listens.", chain("redirect_in")},
	{"", chain("inbound")},
	{"Only the sidecar's uid may send from the client's address, and only within the pod.", chain("spoofed")},
	{"Marked packets are routed to lo, whatever their destination.", []string{"ip", "-4", "rule"}},
	{"", []string{"ip", "-4", "route", "show", "table", "local", "default"}},
	{"The same for IPv6.", []string{"ip", "-6", "rule"}},
	{"", []string{"ip", "-6", "route", "show", "table", fmt.Sprint(contract.RouteTable)}},
}

func chain(name string) []string {
	return []string{"nft", "-s", "list", "chain", "inet", contract.Table, name}
}

// ruleset shows what the plugin programmed into the pod, as nft and ip print it.
func (d *demo) ruleset(ns *lab.NS) {
	d.head("How: a few rules in the pod, set once when it starts (nat mode)")
	for i, s := range shown {
		if s.caption != "" {
			if i > 0 {
				fmt.Fprintln(d.w)
			}
			d.wrap("  # ", "  # ", s.caption, cyan)
		}
		for _, line := range trim(ns.Run(s.command...)) {
			rule := strings.TrimLeft(line, "\t")
			deep := strings.Repeat(" ", 2+4*(len(line)-len(rule)))
			d.wrap(deep, deep+"    ", rule, 0)
		}
	}
	fmt.Fprintln(d.w)
	d.wrap("  ", "  ", "tproxy mode has `tproxy to` in place of `redirect to`. "+
		"The other rules protect these: nft list table inet "+contract.Table, dim)
}

// trim removes the table around a chain, and empty lines, from a listing.
func trim(listing string) []string {
	lines := strings.Split(strings.TrimSpace(listing), "\n")
	if strings.HasPrefix(lines[0], "table ") {
		lines = lines[1 : len(lines)-1]
		for i, l := range lines {
			lines[i] = strings.TrimPrefix(l, "\t")
		}
	}
	return lines
}

func (d *demo) read(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	return string(text)
}
