package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

var podAddrs = []string{lab.Pod4 + "/24", lab.Pod6 + "/64"}

// command is one process.
type command struct {
	args, env []string
	stdin     []byte
	stdout    []byte // what it must answer; nil: anything
}

// variant is one way to set up a pod.
type variant struct {
	name     string
	ours     bool // the plugin: the goals are its
	commands func(pod *lab.NS) []command
	check    func(pod *lab.NS) error // that it was done
}

// The variants that the goals refer to.
const (
	tableName   = "one empty table, Go"
	linkerdName = "linkerd-cni's execs"
)

func variants(o options) []variant {
	return []variant{
		plugin(o, contract.ModeNAT),
		plugin(o, contract.ModeTProxy),
		{
			name: tableName,
			commands: func(pod *lab.NS) []command {
				return []command{{
					args: []string{filepath.Join(o.floor, "table"), contract.Table},
					env:  []string{"CNI_NETNS=" + pod.Path()},
				}}
			},
			check: has([]string{"nft", "list", "table", "inet", contract.Table}, "table inet "+contract.Table),
		},
		{
			name:     linkerdName,
			commands: linkerd,
			check:    has([]string{iptables, "-t", "nat", "-S", "OUTPUT"}, "-j PROXY_INIT_OUTPUT"),
		},
		{
			name: "one empty table, nft -f",
			commands: func(pod *lab.NS) []command {
				return []command{{
					args:  inside(pod, "nft", "-f", "-"),
					stdin: []byte("table inet " + contract.Table + "\n"),
				}}
			},
			check: has([]string{"nft", "list", "table", "inet", contract.Table}, "table inet "+contract.Table),
		},
		{
			name:     "nothing, Go",
			commands: func(*lab.NS) []command { return []command{{args: []string{filepath.Join(o.floor, "empty")}}} },
			check:    func(*lab.NS) error { return nil },
		},
	}
}

// plugin is an ADD as a runtime does it, of a pod whose annotations choose the
// mode.
func plugin(o options, mode string) variant {
	return variant{
		name: "tproxy-cni ADD, " + mode,
		ours: true,
		commands: func(pod *lab.NS) []command {
			stdin, prev := configuration(pod, mode)
			return []command{{
				args: []string{o.plugin},
				env: []string{
					"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + pod.Name(), "CNI_NETNS=" + pod.Path(), "CNI_IFNAME=eth0",
					"CNI_PATH=/opt/cni/bin", "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod.Name(),
				},
				stdin: stdin, stdout: prev,
			}}
		},
		check: func(pod *lab.NS) error {
			var addrs []netip.Addr
			for _, a := range podAddrs {
				addrs = append(addrs, netip.MustParsePrefix(a).Addr())
			}
			return intercept.Check(pod.Path(), intercept.Default(contract.Mode(mode)), addrs)
		},
	}
}

// configuration returns what the runtime writes to the plugin's stdin, and the
// prevResult in it.
func configuration(pod *lab.NS, mode string) (stdin, prev []byte) {
	type object map[string]any
	var ips []object
	for _, a := range podAddrs {
		ips = append(ips, object{"address": a, "interface": 1})
	}
	prev = marshal(object{
		"cniVersion": "1.1.0", "ips": ips, "dns": object{},
		"interfaces": []object{{"name": "pod0"}, {"name": "eth0", "sandbox": pod.Path()}},
		"routes":     []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
	})
	annotations := map[string]string{contract.AnnotationPrefix + "mode": mode, "kubernetes.io/config.source": "api"}
	return marshal(object{
		"cniVersion": "1.1.0", "name": "lab", "type": contract.PluginType, "prevResult": json.RawMessage(prev),
		"capabilities":  object{contract.AnnotationsCapability: true},
		"runtimeConfig": object{contract.AnnotationsCapability: annotations},
	}), prev
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of constants and texts only
	}
	return b
}

// Debian's default iptables, and what linkerd-cni is set to on a system with
// nftables.
const iptables, iptablesSave = "iptables-nft", "iptables-nft-save"

// linkerd are the commands of linkerd-cni for a pod with its default settings
// (pkg/iptables/iptables.go in linkerd/linkerd2-proxy-init, and the values of
// its Helm chart), for IPv4 alone: with IPv6 it does them twice. Its question
// to the API server and its own start come on top.
func linkerd(pod *lab.NS) []command {
	const in, out = "PROXY_INIT_REDIRECT", "PROXY_INIT_OUTPUT"
	var commands []command
	run := func(line string) { commands = append(commands, command{args: inside(pod, strings.Fields(line)...)}) }
	nat := func(rule, comment string) {
		run(iptables + " -t nat " + rule + " -m comment --comment proxy-init/" + comment)
	}
	run(iptablesSave + " -t nat")
	run(iptables + " -t nat -N " + in)
	nat("-A "+in+" -p tcp --match multiport --dports 4190,4191,4567,4568 -j RETURN", "ignore-port-4190,4191,4567,4568")
	nat("-A "+in+" -p tcp -j REDIRECT --to-port 4143", "redirect-all-incoming-to-proxy-port")
	nat("-A PREROUTING -j "+in, "install-proxy-init-prerouting")
	run(iptables + " -t nat -N " + out)
	nat("-A "+out+" -m owner --uid-owner 2102 -j RETURN", "ignore-proxy-user-id")
	nat("-A "+out+" -o lo -j RETURN", "ignore-loopback")
	nat("-A "+out+" -p tcp --match multiport --dports 4567,4568 -j RETURN", "ignore-port-4567,4568")
	nat("-A "+out+" -p tcp -j REDIRECT --to-port 4140", "redirect-all-outgoing-to-proxy-port")
	nat("-A OUTPUT -j "+out, "install-proxy-init-output")
	run(iptablesSave + " -t nat")
	return commands
}

// inside runs a command in the pod's namespace as linkerd-cni does.
func inside(pod *lab.NS, args ...string) []string {
	return append([]string{"nsenter", "--net=" + pod.Path(), "--"}, args...)
}

// has returns a check that the output of a command in the pod contains the text.
func has(args []string, text string) func(*lab.NS) error {
	return func(pod *lab.NS) error {
		out, err := pod.Try(args...)
		if err != nil || !strings.Contains(out, text) {
			return fmt.Errorf("no %q (%v) in %q", text, err, out)
		}
		return nil
	}
}
