package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// picture is the topology, with what runs in each of the three pods.
const picture = `
  client ───────── node ───────── pod
  %-18s              ├ %-13s port %d, uid %d
  %-18s              └ application   port %d, uid %d
`

func (d *demo) intro() {
	d.head("tproxy-cni: the client's own address reaches the application behind a sidecar")
	fmt.Fprintf(d.w, strings.TrimPrefix(picture, "\n"),
		lab.Client4, "sidecar", contract.ProxyPort, contract.ProxyUID,
		lab.Client6, contract.EchoPort, appUID)
	fmt.Fprintln(d.w)
	d.wrap("  ", "  ", "Network namespaces of this kernel; each pod was attached by cnitool through "+
		"ptp, host-local and "+contract.PluginType+".", dim)
	d.head("What the client's address is, and what the application saw")
}

func (d *demo) header() {
	var cells []cell
	for _, name := range []string{"mode", "over", "with", "the client is", "application saw", "exact", "caps"} {
		cells = append(cells, cell{name, dim})
	}
	d.line(cells...)
}

func (d *demo) captions() {
	fmt.Fprintln(d.w)
	for _, c := range []struct{ mode, text string }{
		{contract.ModeNAT, "no capability at all; the client's address and port"},
		{contract.ModeTProxy, "no conntrack; the client's address, from a port of the sidecar's"},
		{plainMode, "for contrast: socat, which does not spoof, in a pod without interception"},
	} {
		d.wrap(fmt.Sprintf("  %-8s", c.mode), "          ", c.text, dim)
	}
	fmt.Fprintln(d.w)
	d.wrap("  ", "  ", "Every nat and tproxy row is in its sidecar's log: no connection bypassed it.", dim)
}

// status has the fields of /proc/PID/status.
type status map[string]string

func (d *demo) status(p *pod) status {
	s := status{}
	for _, line := range strings.Split(d.read(fmt.Sprintf("/proc/%d/status", p.proc.Pid())), "\n") {
		key, value, _ := strings.Cut(line, ":")
		s[key] = strings.TrimSpace(value)
	}
	return s
}

// netRaw is the set with that capability alone.
const netRaw = 1 << 13

// set names a capability set: none, net_raw, or else its bits in hex.
func (s status) set(key string) string {
	switch bits, err := strconv.ParseUint(s[key], 16, 64); {
	case err != nil:
		return "?"
	case bits == 0:
		return "none"
	case bits == netRaw:
		return "net_raw"
	default:
		return strconv.FormatUint(bits, 16)
	}
}

// capabilities are the effective set, or the permitted one if that is empty.
func (s status) capabilities() string {
	if eff := s.set("CapEff"); eff != "none" {
		return eff
	}
	return s.set("CapPrm")
}

// sets are the kernel's names of the capability sets.
var sets = []string{"CapPrm", "CapEff", "CapBnd"}

// processes shows the programs between client and application as the kernel
// reports them, and holds the sidecars to what is promised of them.
func (d *demo) processes(pods ...*pod) {
	d.head("The process in between, as the kernel reports it in /proc/PID/status")
	widths := []int{26, 5, 7, 7, 7, 10}
	d.cells(widths, []cell{
		{"process", dim},
		{"uid", dim},
		{"CapPrm", dim},
		{"CapEff", dim},
		{"CapBnd", dim},
		{"NoNewPrivs", dim},
	})
	for _, p := range pods {
		s := d.status(p)
		uid, _, _ := strings.Cut(s["Uid"], "\t")
		cells := []cell{{p.program, bold}, {uid, 0}}
		for _, name := range sets {
			c := cell{s.set(name), green}
			if !allowed(p.mode, name, c.text) {
				c.style = red
				d.broken++
			}
			cells = append(cells, c)
		}
		d.cells(widths, append(cells, cell{s["NoNewPrivs"], 0}))
	}
	fmt.Fprintln(d.w)
	d.wrap("  ", "  ", "In tproxy mode NET_RAW opens the listener and is dropped at once. It stays in the "+
		"bounding set, which only limits what a program may gain by exec.", dim)
}

// allowed reports whether a process may have the set: only an empty one, and
// NET_RAW in the bounding set of a container in tproxy mode.
func allowed(mode, name, set string) bool {
	return set == "none" || mode == contract.ModeTProxy && name == "CapBnd" && set == "net_raw"
}

func (d *demo) verdict() {
	if d.broken == 0 {
		fmt.Fprintf(d.w, "\n%s\n", d.paint("Every row is as promised. Nothing of this is left on the machine.", green))
	}
}
