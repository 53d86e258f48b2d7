package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// shown are the parts of the nat pod's state that do the work, in the order in
// which a connection meets them. The rest guards it.
var shown = []struct {
	caption string
	command []string
}{
	{"Inbound: to the sidecar, and only where the application listens.", chain("redirect_in")},
	{"", chain("inbound")},
	{"The client's address as a source: for the sidecar's uid, and inside the pod.", chain("spoofed")},
	{"These packets have the mark and are routed to lo, whoever they are for.", []string{"ip", "-4", "rule"}},
	{"", []string{"ip", "-4", "route", "show", "table", "local", "default"}},
	{"The same for IPv6.", []string{"ip", "-6", "rule"}},
	{"", []string{"ip", "-6", "route", "show", "table", fmt.Sprint(contract.RouteTable)}},
}

func chain(name string) []string {
	return []string{"nft", "-s", "list", "chain", "inet", contract.Table, name}
}

// ruleset shows what the plugin programmed into the pod, as nft and ip tell it.
func (d *demo) ruleset(ns *lab.NS) {
	d.head("What did it: a few rules in the pod, set once when the pod began (nat mode)")
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
		"The rules that are not shown guard these: nft list table inet "+contract.Table, dim)
}

// trim takes the table around a chain, and empty lines, from a listing.
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
