package explain

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

var (
	clientEnd = netip.MustParseAddrPort("198.18.1.2:61744")
	podEnd    = netip.MustParseAddrPort("10.244.1.7:8080")
)

// step is a decision in our table inet, at a hook.
func step(hook, chain string, rule int, v trace.Verdict, comment string) trace.Step {
	return trace.Step{
		Table: ours, Chain: chain, Hook: trace.Hook{Name: hook, NAT: hook == "prerouting"}, Rule: rule, Verdict: v, Comment: comment,
	}
}

func packet(in, out string, from, to netip.AddrPort, flags byte, steps ...trace.Step) *trace.Packet {
	h := trace.Header{Src: from, Dst: to, Flags: flags}
	return &trace.Packet{In: in, Out: out, Header: h, Now: h, Steps: steps}
}

const syn, synAck, rst = 2, 18, 4

// told is a story of so many of the packets of one that goes well.
func told(n int) *Story {
	first := packet("eth0", "", clientEnd, podEnd, syn,
		step("prerouting", "inbound", 5, trace.Accept, "redirects new connections to ports with a listener"),
		step("input", "closed_in", 2, trace.Accept, "lets redirected connections reach the sidecar"))
	first.Now.Dst = netip.AddrPortFrom(podEnd.Addr(), 5000)
	all := []*trace.Packet{
		first,
		packet("lo", "lo", clientEnd, podEnd, syn, step("output", "spoofed", 3, trace.Accept, "lets uid 7089 open the spoofed leg")),
		packet("lo", "lo", podEnd, clientEnd, synAck, step("output", "loopback", 4, trace.Accept, "keeps the application's answers to clients out of conntrack")),
	}
	return &Story{Client: clientEnd, Server: podEnd, Packets: all[:n]}
}

// well is a pod that works.
func well() Facts {
	listens := func(port uint16, uid uint32) Listener {
		return Listener{Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), port), UID: uid, PID: 42, Process: "x", Limit: 128}
	}
	return Facts{
		Namespace: "demo", Name: "echo-1", NetNS: "/run/netns/cni-1", Node: "n1", Plugin: "v0.2.0", Source: "annotation mode=nat",
		Addrs: []netip.Addr{podEnd.Addr()}, Config: intercept.Default(contract.ModeNAT), Programmed: true, Table: true, Port: 8080,
		Listeners: []Listener{listens(5000, contract.ProxyUID), listens(5001, contract.ProxyUID), listens(8080, 0)},
		Sidecar:   &Container{Found: true, Name: "tproxy-proxy", Running: true}, Ready: &Ready{OK: true}, Conntrack: Usage{5, 100}, Story: told(3),
		Entry: Entry{Looked: true, File: "10-flannel.conflist", Changed: time.Unix(100, 0)}, Created: time.Unix(200, 0),
	}
}

// TestSituations: each situation has its verdict and one next step, for a pod and for
// a bare namespace, where the step is a command of a shell if it can be.
func TestSituations(t *testing.T) {
	foreign := trace.Step{
		Table: "ip nat", Chain: "PREROUTING", Hook: trace.Hook{Name: "prerouting", Priority: -100, NAT: true}, Rule: 2, Handle: 7, Verdict: trace.Accept,
	}
	for _, c := range []struct {
		name, code string
		state      State
		text       string // part of the verdict's
		pod, bare  string // parts of the next step, text or command
		spoil      func(*Facts)
	}{
		{"healthy", "healthy", Fine, "the application sees 198.18.1.2:61744", "nothing", "nothing", func(*Facts) {}},
		{"hostNetwork", "host_network", Fault, "node's own network", "hostNetwork: true", "hostNetwork", func(f *Facts) { f.HostNetwork = true }},
		{"hostNetwork that does not ask", "host_network", Fine, "never programmed", "nothing", "nothing", func(f *Facts) { f.HostNetwork, f.Config.Mode = true, contract.ModeNone }},
		{"settings", "settings_invalid", Fault, "no such mode", "mend the setting", "valid settings", func(f *Facts) { f.Invalid = "annotation mode: no such mode" }},
		{"not asked", "not_asked", Fine, "does not ask", "tproxy-cni.io/mode", "--mode", func(f *Facts) { f.Config.Mode = contract.ModeNone }},
		{"Kata", "other_stack", Fault, "Kata Containers", "runtimeClassName", "kernel", func(f *Facts) { f.Stack = "Kata Containers"; f.Programmed, f.Table = false, false }},
		{"gVisor", "other_stack", Fault, "gVisor", "runtimeClassName", "kernel", func(f *Facts) { f.Stack = "gVisor"; f.Story = nil }},
		{"kernel", "kernel", Fault, "it lacks nft tproxy", "docs/REFERENCE.md", "docs/REFERENCE.md", func(f *Facts) { f.Missing, f.Table = []string{"nft tproxy"}, false }},
		{"older", "older_than_entry", Fault, "10-flannel.conflist (00:00:50 < 00:01:40)", "kubectl -n demo delete pod echo-1", "setup --mode nat", func(f *Facts) {
			f.Programmed, f.Table, f.Drift, f.Story, f.Created = false, false, []string{"table inet tproxy_cni is missing"}, nil, time.Unix(50, 0)
		}},
		{"left alone", "left_alone", Fine, "no annotation and is older than the node's default mode", "kubectl -n demo delete pod echo-1", "", func(f *Facts) {
			f.ByDefault, f.Programmed, f.Table, f.Story, f.Created = true, false, false, nil, time.Unix(50, 0)
		}},
		{"by default, and without its table", "not_programmed", Fault, "table is gone", "--repair", "setup", func(f *Facts) { f.ByDefault, f.Table = true, false }},
		{"no entry", "not_in_chain", Fault, "no CNI list", "k8s/install", "k8s/install", func(f *Facts) { f.Programmed, f.Table, f.Entry = false, false, Entry{Looked: true} }},
		{"never programmed", "not_programmed", Fault, "directly", "delete pod", "nsenter --net=/run/netns/cni-1 tproxy-install setup --mode nat", func(f *Facts) { f.Programmed, f.Table = false, false }},
		{"best effort, never programmed", "not_programmed", Fault, "directly", "delete pod", "setup --mode nat --packet-guard best-effort", func(f *Facts) {
			f.Programmed, f.Table, f.Config.PacketGuard = false, false, contract.PacketGuardBestEffort
		}},
		{"flushed", "not_programmed", Fault, "directly, past the sidecar: the plugin's table is gone", "delete pod", "setup", func(f *Facts) { f.Table = false }},
		{"taken", "other_interceptor", Fault, "table ip nat, chain PREROUTING (prerouting -100), rule 2 takes the SYN first: port 8080 becomes 15006", "other injection", "nft delete rule ip nat PREROUTING handle 7", func(f *Facts) {
			p := packet("eth0", "", clientEnd, podEnd, syn, foreign, step("input", "closed_in", 6, trace.Drop, "refuses what the sidecar has not taken"))
			p.Now.Dst = netip.AddrPortFrom(podEnd.Addr(), 15006)
			f.Story.Packets = []*trace.Packet{p}
		}},
		{"firewall", "firewall", Fault, "table ip filter, chain INPUT (input 0), rule 3 drops the SYN", "allow TCP port 5000", "nft insert rule ip filter INPUT tcp dport 5000 accept", func(f *Facts) {
			f.Story = told(1)
			f.Story.Packets[0].Steps[1] = trace.Step{Table: "ip filter", Chain: "INPUT", Hook: trace.Hook{Name: "input"}, Rule: 3, Handle: 9, Verdict: trace.Drop}
		}},
		{"firewall's policy", "firewall", Fault, "chain INPUT (input 0), policy drops the SYN", "allow TCP port 5000", "nft insert rule ip filter INPUT tcp dport 5000 accept", func(f *Facts) {
			f.Story = told(1)
			f.Story.Packets[0].Steps[1] = trace.Step{Table: "ip filter", Chain: "INPUT", Hook: trace.Hook{Name: "input"}, Verdict: trace.Drop}
		}},
		{"firewall on lo", "firewall", Fault, "chain INPUT (input 0), rule 3 drops the SYN", "allow TCP port 8080", "nft insert rule ip filter INPUT tcp dport 8080 accept", func(f *Facts) {
			f.Story = told(2)
			f.Story.Packets[1].Steps = append(f.Story.Packets[1].Steps, trace.Step{Table: "ip filter", Chain: "INPUT", Hook: trace.Hook{Name: "input"}, Rule: 3, Verdict: trace.Drop})
		}},
		{"a foreign rule accepts before ours redirects", "healthy", Fine, "the application sees", "nothing", "nothing", func(f *Facts) {
			f.Story.Packets[0].Steps = slices.Insert(f.Story.Packets[0].Steps, 0, foreign)
		}},
		{"a foreign rule accepts at nat's hook input", "healthy", Fine, "the application sees", "nothing", "nothing", func(f *Facts) {
			at := foreign
			at.Hook = trace.Hook{Name: "input", Priority: 100, NAT: true}
			f.Story.Packets[0].Steps = append(f.Story.Packets[0].Steps, at)
		}},
		{"drifted", "drifted", Fault, "rule 7 is missing (and 1 more)", "--repair", "setup", func(f *Facts) { f.Drift = []string{"rule 7 is missing", "lo is down"} }},
		{"no IPv6", "no_family", Fault, "fd00::9 cannot reach the pod: it has no IPv6 address", "dual-stack", "dual-stack", func(f *Facts) { f.Client, f.Story = netip.MustParseAddr("fd00::9"), nil }},
		{"dead application", "no_listener", Fault, "no application listens on port 8080", "kubectl -n demo logs echo-1", "listen on 8080", func(f *Facts) { f.Listeners = f.Listeners[:2]; f.Story = nil }},
		{"no application", "no_listener", Fault, "no application listens in the pod", "logs", "start", func(f *Facts) { f.Listeners, f.Port, f.Story = f.Listeners[:2], 0, nil }},
		{"loopback only", "listens_elsewhere", Fault, "listens on 127.0.0.1 only", "[::]", "[::]", func(f *Facts) {
			f.Listeners[2].Addr, f.Story = netip.MustParseAddrPort("127.0.0.1:8080"), nil
		}},
		{"excluded port", "exempt_port", Fine, "port 8080 is excluded (exclude-inbound-ports)", "annotation tproxy-cni.io/exclude-inbound-ports", "setup --mode nat", func(f *Facts) {
			f.Config.ExcludePorts = []intercept.PortRange{{Low: 8000, High: 8099}}
		}},
		{"not included port", "exempt_port", Fine, "not among the included", "include-inbound-ports", "setup --mode nat", func(f *Facts) { f.Config.IncludePorts = []intercept.PortRange{{Low: 1, High: 99}} }},
		{"excluded client", "exempt_client", Fine, "198.18.1.2 reaches the application directly, past the sidecar: it is in 198.18.0.0/15", "exclude-source-cidrs", "setup --mode nat", func(f *Facts) {
			f.Config.ExcludeSources = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15")}
		}},
		{"wrong uid", "wrong_uid", Fault, "uid 65532 (x) listens on the sidecar's port 5000, and the rules expect uid 7089", "runAsUser: 7089", "kill 42", func(f *Facts) { f.Listeners[0].UID = 65532 }},
		{"sidecar down", "no_sidecar", Fault, "clients are refused", "kubectl -n demo logs echo-1 -c tproxy-proxy\n", "setpriv --reuid=7089", func(f *Facts) { f.Listeners, f.Sidecar = f.Listeners[2:], nil; f.Port = 8080 }},
		{"sidecar that does not listen", "no_sidecar", Fault, "clients are refused", "kubectl -n demo logs echo-1 -c tproxy-proxy\n", "setpriv", func(f *Facts) { f.Listeners = f.Listeners[2:] }},
		{"another proxy that ends", "no_sidecar", Fault, "clients are refused", "kubectl -n demo logs echo-1 -c proxy --previous\n", "setpriv", func(f *Facts) {
			f.Listeners, f.Sidecar = f.Listeners[2:], &Container{Found: true, Name: "proxy", Restarts: 1}
		}},
		{"another proxy is silent", "silent", Fault, "does not connect", "kubectl -n demo logs echo-1 -c proxy\n", "log of the sidecar", func(f *Facts) { f.Story, f.Sidecar.Name = told(1), "proxy" }},
		{"no sidecar", "no_sidecar", Fault, "clients are refused", "tproxy-install inject", "setpriv", func(f *Facts) { f.Listeners, f.Sidecar = f.Listeners[2:], &Container{} }},
		{"sidecar stopped", "sidecar_full", Fault, "queue is full (129/128)", "-c tproxy-proxy", "kill -CONT 42", func(f *Facts) { f.Listeners[0].Queue = 129 }},
		{"sidecar not ready", "sidecar_not_ready", Fault, "no ports for clients", "-c tproxy-proxy", "reason", func(f *Facts) { f.Ready = &Ready{Text: "no ports for clients"} }},
		{"sidecar that says what to do", "sidecar_not_ready", Fault, "no ports", "the sidecar says: end the client", "the sidecar says: end the client", func(f *Facts) { f.Ready = &Ready{Text: "no ports", Cure: "end the client"} }},
		{"application stopped", "application_full", Fault, "queue on port 8080 is full", "logs", "kill -CONT 42", func(f *Facts) { f.Listeners[2].Queue, f.Story = 129, told(2) }},
		{"conntrack", "conntrack_full", Fault, "(100/100)", "nf_conntrack_max=200", "nf_conntrack_max=200", func(f *Facts) { f.Conntrack.Count = 100 }},
		{"replaced", "client_replaced", Fault, "198.18.1.2:4510 > 198.18.1.1:30080 became 198.18.0.1:4510 > 10.244.1.7:8080", "externalTrafficPolicy: Local", "PROXY", func(f *Facts) {
			f.Story.Synthetic = true
			f.Replaced = []Replaced{{netip.MustParseAddrPort("198.18.1.2:4510"), netip.MustParseAddrPort("198.18.1.1:30080"), netip.MustParseAddrPort("198.18.0.1:4510"), podEnd}}
		}},
		{"another client is replaced", "healthy", Fine, "", "nothing", "nothing", func(f *Facts) {
			f.Client = clientEnd.Addr()
			f.Replaced = []Replaced{{netip.MustParseAddrPort("198.18.9.2:4510"), netip.MustParseAddrPort("198.18.1.1:30080"), netip.MustParseAddrPort("198.18.0.1:4510"), podEnd}}
		}},
		{"this connection is replaced", "client_replaced", Fault, "198.18.9.2:4510 > 198.18.1.1:30080 became 198.18.1.2:61744", "Local", "Local", func(f *Facts) {
			f.Replaced = []Replaced{{netip.MustParseAddrPort("198.18.9.2:4510"), netip.MustParseAddrPort("198.18.1.1:30080"), clientEnd, podEnd}}
		}},
		{"unseen", "unseen", Fault, "does not come to the pod", "get networkpolicy", "ip route get 10.244.1.7", func(f *Facts) { f.Story = told(0) }},
		{"silent", "silent", Fault, "does not connect to the application", "-c tproxy-proxy", "log of the sidecar", func(f *Facts) { f.Story = told(1) }},
		{"unanswered", "unanswered", Fault, "does not answer", "-c tproxy-proxy", "log of the sidecar", func(f *Facts) { f.Story = told(2) }},
		{"closed", "closed", Fault, "refuses the sidecar", "-c tproxy-proxy", "log of the sidecar", func(f *Facts) {
			f.Story = told(3)
			f.Story.Packets[2].Flags = rst
		}},
		{"dropped", "dropped", Fault, "drops what any uid but 7089 sends", "delete pod", "setup", func(f *Facts) {
			f.Story = told(2)
			f.Story.Packets[1].Steps[0] = step("output", "spoofed", 1, trace.Drop, "drops what any uid but 7089 sends")
		}},
		{"refused", "refused", Fault, "refuses what the sidecar has not taken", "delete pod", "setup", func(f *Facts) {
			f.Story = told(1)
			f.Story.Packets[0].Steps[1] = step("input", "closed_in", 6, trace.Drop, "refuses what the sidecar has not taken")
		}},
		{"past", "direct", Fault, "directly", "delete pod", "setup", func(f *Facts) {
			f.Story = told(1)
			f.Story.Packets[0].Steps = nil
		}},
		{"others, untold", "other_interceptor", Fault, "rule 2 of chain ISTIO_INBOUND redirects new connections to port 15006, as istio does", "other injection", "nft -a list chain ip nat ISTIO_INBOUND", func(f *Facts) {
			f.Others, f.Story = []intercept.Other{{Family: "ip", Table: "nat", Chain: "PREROUTING", Priority: -100, In: "ISTIO_INBOUND", Rule: 2, Verb: "redirects", Port: 15006}}, nil
		}},
		{"others of iptables-legacy", "other_interceptor", Fault, "to port 15006", "other injection", "nsenter --net=/run/netns/cni-1 ip6tables-legacy -t nat -S ISTIO_INBOUND", func(f *Facts) {
			f.Others, f.Story = []intercept.Other{{Family: "ip6", Table: "nat", Chain: "PREROUTING", In: "ISTIO_INBOUND", Rule: 2, Verb: "redirects", Port: 15006, Legacy: true}}, nil
		}},
		{"unreadable", "unreadable", Unclear, "EPERM", "root", "root", func(f *Facts) { f.Unknown, f.Story = []string{"rules: EPERM"}, nil }},
		{"not tried", "not_tried", Unclear, "not to connect", "--watch", "--watch", func(f *Facts) { f.Story, f.NoStory = nil, "told not to connect" }},
	} {
		f := well()
		c.spoil(&f)
		for kind, want := range map[string]string{"pod": c.pod, "bare": c.bare} {
			f := f
			if kind == "bare" {
				f.Namespace, f.Name, f.Sidecar = "", "", nil
			}
			v, next := Judge(f)
			if v.Code != c.code || v.State != c.state || !strings.Contains(v.Text, c.text) {
				t.Errorf("%s, %s: %s %s: %s", c.name, kind, v.State, v.Code, v.Text)
			}
			if said := next.Text + "\n" + next.Command + "\n"; next.Text == "" || !strings.Contains(said, want) {
				t.Errorf("%s, %s: next %q lacks %q", c.name, kind, said, want)
			}
		}
	}
}

// TestJudgeStory: a connection that nothing in its trace explains is explained by the
// rules of others; those of iptables-legacy are in no trace.
func TestJudgeStory(t *testing.T) {
	f, s := well(), told(1)
	s.Packets[0].Steps[1] = step("input", "closed_in", 6, trace.Drop, "refuses what the sidecar has not taken")
	if v, _ := JudgeStory(f, s); v.Code != "refused" {
		t.Errorf("without others: %s: %s", v.Code, v.Text)
	}
	f.Others = []intercept.Other{{Family: "ip", Table: "nat", Chain: "PREROUTING", In: "PREROUTING", Rule: 1, Verb: "redirects", Port: 15006, Legacy: true}}
	if v, next := JudgeStory(f, s); v.Code != "other_interceptor" || !strings.Contains(next.Text, "other injection") {
		t.Errorf("with others: %s: %s, next %s", v.Code, v.Text, next.Text)
	}
}

// TestFirstCauseCounts: of several faults the verdict names the one that has to be
// mended first.
func TestFirstCauseCounts(t *testing.T) {
	f := well()
	f.Conntrack.Count = f.Conntrack.Limit
	for _, c := range []struct {
		code  string
		spoil func()
	}{
		{"conntrack_full", func() {}},
		{"no_sidecar", func() { f.Listeners = f.Listeners[2:] }},
		{"no_listener", func() { f.Listeners = nil }},
		{"drifted", func() { f.Drift = []string{"x"} }},
		{"not_programmed", func() { f.Programmed, f.Table = false, false }},
		{"kernel", func() { f.Missing = []string{"x"} }},
		{"settings_invalid", func() { f.Invalid = "x" }},
	} {
		c.spoil()
		if v, _ := Judge(f); v.Code != c.code {
			t.Errorf("%s in place of %s", v.Code, c.code)
		}
	}
}
