package intercept

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// sysctl is a setting of the pod's network namespace. It affects every process
// of the pod, so each entry says what else changes.
type sysctl struct {
	key     string
	on, off string // what Apply sets it to, and the kernel's default

	mode contract.Mode // that needs it; both if empty

	// Interception works without. It stays as it is where /proc/sys is
	// read-only, in an init container, and where the kernel does not have it.
	optional bool
}

// sysctls are all of them; sysctlsFor has those of a mode.
var sysctls = []sysctl{
	// An accepted socket takes the mark of its SYN: this is what makes the
	// application's replies stay in the pod, without conntrack. Others never
	// see marked SYNs.
	{key: "net/ipv4/tcp_fwmark_accept", on: "1", off: "0"},

	// The kernel's own replies (RST, challenge ACK) carry the mark of what
	// they answer: without it a refused connection would send its RST to the
	// real client. Replies to unmarked packets are as before.
	{key: "net/ipv4/fwmark_reflect", on: "1", off: "0"},
	{key: "net/ipv6/fwmark_reflect", on: "1", off: "0"},

	// Any process may bind an IPv6 address that is not the pod's, as the
	// local default route lets it in IPv4: the sidecar has to, and the guard
	// stops the packets of all others. A typo in an application's listen
	// address no longer fails its bind.
	{key: "net/ipv6/ip_nonlocal_bind", on: "1", off: "0"},

	// A half-closed connection lives as long as conntrack knows it. TCP
	// retransmits to a client that does not read, or is out of reach, every 120
	// seconds at most (TCP_RTO_MAX), and keepalive waits for that; conntrack
	// forgets after 60, 30 and 120. The entry of a client that vanished stays
	// that much longer.
	{key: conntrackTimeout + "close_wait", on: patience, off: "60", mode: contract.ModeNAT, optional: true},
	{key: conntrackTimeout + "last_ack", on: patience, off: "30", mode: contract.ModeNAT, optional: true},
	{key: conntrackTimeout + "fin_wait", on: patience, off: "120", mode: contract.ModeNAT, optional: true},

	// Early demux looks for a packet's socket before NAT at the input hook may have
	// given the packet another source port. With one client port towards two ports
	// of the pod, nat mode redirects both to the sidecar's; the second connection's
	// packets then found the first one's socket, and the client hung. Newer kernels
	// correct themselves, which shows in nothing but such a pair of connections, so
	// it is off on all: a packet's route is looked up, which costs no measurable time.
	{key: "net/ipv4/tcp_early_demux", on: "0", off: "1", mode: contract.ModeNAT, optional: true},
}

const (
	sysctlDir        = "/proc/sys/"
	conntrackTimeout = "net/netfilter/nf_conntrack_tcp_timeout_"
	patience         = "300" // two retransmissions and more; conntrack's own limit for unacknowledged data
)

// sysctlsFor are those that mode needs; of both modes if it is empty.
func sysctlsFor(mode contract.Mode) (list []sysctl) {
	for _, s := range sysctls {
		if s.mode == "" || mode == "" || s.mode == mode {
			list = append(list, s)
		}
	}
	return list
}

// name is the sysctl's name as sysctl(8) has it.
func (s sysctl) name() string { return strings.ReplaceAll(s.key, "/", ".") }

// read returns the value in the thread's namespace, "" where the kernel does not
// have what it may lack.
func (s sysctl) read() (string, error) {
	b, err := os.ReadFile(sysctlDir + s.key)
	if errors.Is(err, os.ErrNotExist) && (s.optional || strings.HasPrefix(s.key, "net/ipv6/")) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), wrap("read sysctl", err)
}

func (s sysctl) write(value string) error {
	err := os.WriteFile(sysctlDir+s.key, []byte(value), 0o644)
	if s.optional && errors.Is(err, unix.EROFS) {
		return nil
	}
	return wrap(fmt.Sprintf("set sysctl %s=%s", s.name(), value), err)
}

func readSysctls(pod ns.NetNS, list []sysctl) (values []string, err error) {
	err = pod.Do(func(ns.NetNS) error {
		for _, s := range list {
			v, err := s.read()
			if err != nil {
				return err
			}
			values = append(values, v)
		}
		return nil
	})
	return values, err
}

// writeSysctls makes have[i] of list[i] to[i]. It leaves alone what has no value, and
// what is right already, so that a read-only /proc/sys with the right values does not
// fail.
func writeSysctls(pod ns.NetNS, list []sysctl, have, to []string) error {
	if slices.Equal(have, to) {
		return nil
	}
	return pod.Do(func(ns.NetNS) error {
		for i, v := range to {
			if v == "" || have[i] == "" || v == have[i] {
				continue
			}
			if err := list[i].write(v); err != nil {
				return err
			}
		}
		return nil
	})
}

// sysctlStep comes after the tables: conntrack's settings are there when a rule
// needs conntrack.
func sysctlStep(pod ns.NetNS, mode contract.Mode) step {
	list := sysctlsFor(mode)
	var before []string
	return step{
		func() (err error) {
			if before, err = readSysctls(pod, list); err != nil {
				return err
			}
			on := make([]string, len(list))
			for i, s := range list {
				on[i] = s.on
			}
			return writeSysctls(pod, list, before, on)
		},
		func() error {
			have, err := readSysctls(pod, list)
			if err != nil || len(before) < len(list) {
				return err // do could not read them either, and has changed nothing
			}
			return writeSysctls(pod, list, have, before)
		},
	}
}

// resetSysctls sets to the kernel's default what is as Apply leaves it in any
// mode.
func resetSysctls(pod ns.NetNS) error {
	list := sysctlsFor("")
	have, err := readSysctls(pod, list)
	if err != nil {
		return err
	}
	to := slices.Clone(have)
	for i, s := range list {
		if have[i] == s.on {
			to[i] = s.off
		}
	}
	return writeSysctls(pod, list, have, to)
}

// checkSysctls names those that are not as a mode wants them.
func checkSysctls(pod ns.NetNS, mode contract.Mode) (wrong []string, err error) {
	list := sysctlsFor(mode)
	have, err := readSysctls(pod, list)
	for i, v := range have {
		if v != "" && v != list[i].on {
			wrong = append(wrong, fmt.Sprintf("sysctl %s is %s, not %s", list[i].name(), v, list[i].on))
		}
	}
	return wrong, err
}

// hasIPv6 reports whether an interface can have IPv6 routes: not where the kernel
// or the interface lacks IPv6, or it is disabled.
func hasIPv6(pod ns.NetNS, link string) (has bool, err error) {
	err = pod.Do(func(ns.NetNS) error {
		b, err := os.ReadFile(sysctlDir + "net/ipv6/conf/" + link + "/disable_ipv6")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		has = strings.TrimSpace(string(b)) == "0"
		return err
	})
	return has, err
}
