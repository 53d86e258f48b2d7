package explain

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

func none(string) string { return "" }

// TestPrint: one verdict and one next step, no line wider than 80 columns but for a
// command, which is never broken, and no text of the pod reaches the terminal as it is.
func TestPrint(t *testing.T) {
	const evil = "x\x1b[2J\u202e\n\tx"
	f := well()
	f.Node, f.Source, f.Plugin = evil, evil, evil
	f.Drift = []string{strings.Repeat("a rule that is missing ", 9) + evil}
	f.Listeners[2].Process = evil
	f.Unknown, f.Others = []string{evil}, []intercept.Other{{Family: "ip", Table: evil, Chain: evil, In: evil, Verb: "redirects"}}
	f.Ready = &Ready{Text: evil}
	f.Counters = []Counter{{"redirected", 1204}, {"spoofed", 1204}, {"refused", 3}, {"port_clashes", 0}, {"loop_refused", 0}}
	steps := f.Story.Packets[0].Steps
	steps[0].Comment = evil
	steps = append(steps, trace.Step{Table: ours, Chain: evil, Rule: 1, Verdict: trace.Accept, Comment: evil}) // a chain of the pod in our table
	f.Story.Packets[0].Steps = append(steps, trace.Step{Table: "ip " + evil, Chain: evil, Rule: 1, Verdict: trace.Drop})
	for _, name := range []string{"", "echo-1" + evil} {
		f.Name = name
		var out bytes.Buffer
		if err := Print(&out, none, f); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if strings.Count(text, "VERDICT") != 1 || strings.Count(text, "NEXT") != 1 || strings.ContainsAny(text, "\x1b\u202e\t") {
			t.Errorf("%q", text)
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(line) - 1; n > 80 && !strings.HasPrefix(line, "             kubectl") && !strings.HasPrefix(line, "             nsenter") {
				t.Errorf("%d columns: %s", n, line)
			}
		}
		if v, next := Judge(f); v.Code != "firewall" || next.Command != "" {
			t.Errorf("%s: a command with the names of the pod's rules: %s", v.Code, next.Command)
		}
	}
	var out bytes.Buffer
	if err := New(f).JSON(&out); err != nil || bytes.ContainsAny(out.Bytes(), "\x1b\u202e\t") {
		t.Errorf("%v: %s", err, out.Bytes())
	}
	var fields map[string]any
	if err := json.Unmarshal(out.Bytes(), &fields); err != nil || fields["verdict"] == nil || fields["next"] == nil {
		t.Errorf("%v: %v", err, fields)
	}
}

// TestTell is the story of the connection that goes well.
func TestTell(t *testing.T) {
	want := []Told{
		{"SYN", "eth0", "inbound: redirects new connections to ports with a listener (now :5000)", false},
		{"SYN", "eth0", "closed_in: lets redirected connections reach the sidecar", false},
		{"SYN", "lo", "spoofed: lets uid 7089 open the spoofed leg", false},
		{"SYN-ACK", "lo", "loopback: keeps the application's answers to clients out of conntrack", false},
	}
	if diff := cmp.Diff(want, told(3).Tell()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSplit: packets of connections that run at the same time go to their own: by the
// port in nat mode, in turn for one client where the ports differ.
func TestSplit(t *testing.T) {
	a, b := netip.MustParseAddrPort("198.18.1.2:40001"), netip.MustParseAddrPort("198.18.1.2:40003")
	c, d := netip.MustParseAddrPort("198.18.1.2:1024"), netip.MustParseAddrPort("198.18.1.2:1025")
	in := func(from netip.AddrPort) *trace.Packet { return packet("eth0", "", from, podEnd, syn) }
	dial := func(from netip.AddrPort) *trace.Packet { return packet("lo", "lo", from, podEnd, syn) }
	answer := func(to netip.AddrPort) *trace.Packet { return packet("lo", "lo", podEnd, to, synAck) }
	for name, c := range map[string]struct {
		packets []*trace.Packet
		want    [2][]int // indices of packets
	}{
		"nat":            {[]*trace.Packet{in(a), in(b), dial(b), answer(b), dial(a), answer(a)}, [2][]int{{0, 4, 5}, {1, 2, 3}}},
		"tproxy":         {[]*trace.Packet{in(a), in(b), dial(c), dial(d), answer(d), answer(c)}, [2][]int{{0, 2, 5}, {1, 3, 4}}},
		"sent once more": {[]*trace.Packet{in(a), in(a), in(b), dial(a), dial(a), dial(b)}, [2][]int{{0, 1, 3, 4}, {2, 5}}},
	} {
		stories := Split(c.packets)
		if len(stories) != 2 {
			t.Errorf("%s: %d stories", name, len(stories))
			continue
		}
		for i, s := range stories {
			var want []*trace.Packet
			for _, n := range c.want[i] {
				want = append(want, c.packets[n])
			}
			if !slices.Equal(s.Packets, want) {
				t.Errorf("%s: story %d has other packets", name, i)
			}
		}
	}
}
