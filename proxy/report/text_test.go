package report

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// example is a document with everything in it.
func example() Document {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	checked := now.Add(-4 * time.Second)
	addr := netip.MustParseAddrPort
	return Document{
		Version: "0.1.0", Mode: "tproxy", Address: addr("[::]:5000"), AdminAddress: addr("[::]:5001"), UID: 7089, Loops: 2,
		Time: now, UptimeSeconds: 95_000,
		Readiness: Readiness{
			Reason: "sysctl", Text: "IPv6: sysctl net.ipv6.fwmark_reflect is 0, not 1; and this is a sentence that is longer than a line of 80 columns",
			Cure: "delete the pod, or run the installer with --repair", Checked: &checked,
		},
		Counters: stats.Snapshot{
			Accepted: 123_456, Active: 1207, Limit: 523_264, Closed: map[string]int64{"closed": 120_000, "client reset": 2249, "refused": 0},
			RelayedUp: 999, RelayedDown: 9_960_000_000, Spoofs: map[string]int64{"address_port": 0, "address": 123_000, "none": 2},
			DialErrors: map[string]int64{"ECONNREFUSED": 17, "ETIMEDOUT": 3, "other": 0}, DialRetries: 4,
			Pauses: map[string]int64{"limit": 0, "files": 1}, LinesLost: 12,
		},
		Live: Live{
			States:   States{AwaitingHeader: 1, Connecting: 3, Relaying: 1200, HalfClosedByClient: 1, HalfClosedByApplication: 3, BlockedByClient: 2, BlockedByApplication: 1},
			SortedBy: ByAge, Incomplete: true,
			List: []Connection{
				{addr("198.18.1.2:61744"), "", addr("10.1.0.2:80"), addr("198.18.1.2:1024"), 0, 999_500, 90_061, Relaying, "client"},
				{addr("[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"), "unix", addr("[fd00::2]:65535"), addr("[2001:db8:1234:5678:9abc:def0:1234:5678]:1025"), 5e15, 12_345, 3725, HalfClosedByApplication, "both"},
				{addr("198.18.1.3:1"), "", addr("10.1.0.2:80"), netip.AddrPort{}, 0, 0, 0.5, Connecting, ""},
				{netip.AddrPort{}, OnSocket, netip.AddrPort{}, netip.AddrPort{}, 0, 0, 2, AwaitingHeader, ""},
				{addr("10.1.0.2:40000"), "", addr("10.1.0.2:80"), addr("10.1.0.2:40001"), 1, 1, 61, HalfClosedByClient, ""},
			},
		},
		Pod: podstat.Reading{
			Queues:    []podstat.Queue{{Port: 80, Length: 129, Limit: 128}, {Port: 5000, Length: 0, Limit: 4096}, {Port: 5001, Length: 1, Limit: 4096}, {Port: 8080, Length: 3, Limit: 5}},
			Drops:     &podstat.Drops{Overflows: 7, Drops: 9},
			Conntrack: &podstat.Conntrack{Entries: 1500, Limit: 262_144},
		},
		PodError: "no listeners: netlink: operation not permitted",
		Routing: []podstat.Routing{
			{Family: "IPv4", Marked: "local 192.0.2.1 dev lo table 29808", Stays: true, Rules: []string{"0: from all fwmark 0x1000/0x1000 lookup 29808"}},
			{Family: "IPv6", Error: "RTM_GETROUTE: network is unreachable"},
			{Family: "IPv6", Marked: "2001:db8::1 dev eth0 table main"},
		},
		Sysctls: []podstat.Sysctl{
			{Name: "net.ipv4.fwmark_reflect", Value: "1", Want: "1", OK: true},
			{Name: "net.ipv6.fwmark_reflect", Value: "0", Want: "1"},
			{Name: "net.netfilter.nf_conntrack_tcp_timeout_close_wait", Value: "60", Want: "300", Optional: true},
		},
	}
}

// TestText: the document as text is testdata/status.txt, in 80 columns.
func TestText(t *testing.T) {
	d := example()
	var b strings.Builder
	d.Text(&b, false)
	want, err := os.ReadFile("testdata/status.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("%v; the text is now\n%s", err, b.String())
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	var colourful strings.Builder
	d.Text(&colourful, true)
	plain := colourful.String()
	for _, c := range []string{"0", bold, faint, red, green, yellow} {
		if !strings.Contains(plain, "\x1b["+c+"m") {
			t.Errorf("no colour %s", c)
		}
		plain = strings.ReplaceAll(plain, "\x1b["+c+"m", "")
	}
	if plain != b.String() {
		t.Errorf("with colours it says something else:\n%s", plain)
	}
}

// TestHostile: whatever answers on the sidecar's port, neither output has a byte that a
// terminal obeys.
func TestHostile(t *testing.T) {
	const bad = "a\x1b]0;b\a\u009b2J\r\nc\u202ed\U0001f600"
	d := example()
	d.Version, d.Mode, d.PodError = bad, bad, bad
	d.Readiness = Readiness{Reason: bad, Text: bad, Cure: bad}
	d.Counters.Closed = map[string]int64{bad: 1}
	d.Counters.DialErrors, d.Counters.Pauses = d.Counters.Closed, d.Counters.Closed
	d.Live.List[0].State, d.Live.List[1].BlockedBy = bad, bad
	d.Live.List[2].Client = netip.MustParseAddrPort("[fe80::1%25eth\x1b[2J]:1")
	d.Live.List[3].Via = bad
	d.Routing[0] = podstat.Routing{Family: bad, Marked: bad, Stays: true, Rules: []string{bad}}
	d.Routing[1] = podstat.Routing{Family: bad, Error: bad}
	d.Sysctls[0] = podstat.Sysctl{Name: bad, Value: bad, Want: bad}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	raw = []byte(strings.ReplaceAll(string(raw), `\u202e`, "\u202e")) // as another program may write it
	indented, err := Indent(raw)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	d.Text(&text, false)
	for _, out := range []string{text.String(), indented} {
		for i, r := range out {
			if r != '\n' && (r < ' ' || r > '~') && !strings.ContainsRune(good+fail, r) {
				t.Errorf("%q in %q", r, out[max(0, i-20):min(len(out), i+20)])
			}
		}
	}
	var back Document
	if err := json.Unmarshal([]byte(indented), &back); err != nil || fmt.Sprint(back.Readiness) != fmt.Sprint(d.Readiness) {
		t.Errorf("%v: %+v became %+v", err, d.Readiness, back.Readiness)
	}
}
