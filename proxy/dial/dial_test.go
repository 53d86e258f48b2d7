package dial

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// interfaces is a fake net.InterfaceAddrs.
type interfaces struct {
	addrs []string
	asked int
	err   error
}

func (i *interfaces) list() (all []net.Addr, err error) {
	i.asked++
	for _, a := range i.addrs {
		ip, n, err := net.ParseCIDR(a)
		if err != nil {
			return nil, err
		}
		all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
	}
	return all, i.err
}

func TestCheck(t *testing.T) {
	i := &interfaces{addrs: []string{"127.0.0.1/8", "::1/128", "192.0.2.2/24", "2001:db8::2/64", "fe80::2/64"}}
	d := &Dialer{port: 5000, own: &Addrs{list: i.list}}
	client := netip.MustParseAddr("203.0.113.1")
	for dst, want := range map[string]string{
		"192.0.2.2:80":      "",
		"[2001:db8::2]:80":  "",
		"[fe80::2%eth0]:80": "",
		"192.0.2.2:5000":    "is the proxy itself",
		"127.0.0.1:80":      "are never redirected",
		"[::1]:80":          "are never redirected",
		"192.0.2.3:80":      "no interface of this pod has the address",
		"198.51.100.1:80":   "no interface of this pod has the address",
		"[2001:db8::3]:80":  "no interface of this pod has the address",
		"0.0.0.0:80":        "no interface of this pod has the address",
	} {
		err := d.Check(client, netip.MustParseAddrPort(dst))
		if (want == "") != (err == nil) || err != nil && (!errors.Is(err, ErrNotIntercepted) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", dst, err, want)
		}
	}
	// What would be shown to the application as the pod itself is not served.
	for from, want := range map[string]string{
		"fe80::1":   "is valid on its own link only",
		"fe80::1%2": "is valid on its own link only",
		"127.0.0.1": "is the pod itself",
		"::1":       "is the pod itself",
	} {
		err := d.Check(netip.MustParseAddr(from), netip.MustParseAddrPort("192.0.2.2:80"))
		if !errors.Is(err, ErrNotIntercepted) || !strings.Contains(err.Error(), want) {
			t.Errorf("from %s: got %v, want %q", from, err, want)
		}
	}
	i.err = errors.New("no netlink")
	if err := d.Check(client, netip.MustParseAddrPort("192.0.2.9:80")); !errors.Is(err, i.err) {
		t.Errorf("got %v, want %v", err, i.err)
	}
}

// TestAddrs: a known address is not looked up again for a while, an unknown one always
// is: it may be new.
func TestAddrs(t *testing.T) {
	i := &interfaces{addrs: []string{"192.0.2.2/24", "10.0.0.9/8", "127.0.0.1/8"}}
	a := &Addrs{list: i.list}
	old, late := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.7")
	want := func(addr netip.Addr, own bool, asked int) {
		t.Helper()
		if got, err := a.assigned(addr); err != nil || got != own || i.asked != asked {
			t.Errorf("%s: %v, %v after %d questions; want %v after %d", addr, got, err, i.asked, own, asked)
		}
	}
	want(old, true, 1)
	want(old, true, 1)
	want(late, false, 2)
	i.addrs = append(i.addrs, "192.0.2.7/24")
	want(late, true, 3)
	if !a.known(late) || a.known(netip.MustParseAddr("192.0.2.8")) {
		t.Error("known is wrong")
	}
	a.read = a.read.Add(-2 * snapshotAge)
	want(old, true, 4)

	if one, err := a.One(false); err != nil || one != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("one IPv4 address: %v, %v", one, err)
	}
	i.addrs = []string{"fe80::1/64", "::1/128"}
	if one, err := a.One(true); err != nil || one.IsValid() {
		t.Errorf("one IPv6 address: %v, %v, want none", one, err)
	}
}

func TestSpoofable(t *testing.T) {
	for a, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "169.254.1.1": true, "10.0.0.1": true,
		"127.0.0.1": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false,
	} {
		if got := spoofable(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

func failed(call string, errno error) error {
	return &net.OpError{Op: "dial", Err: os.NewSyscallError(call, errno)}
}

func TestDialErrors(t *testing.T) {
	for _, tt := range []struct {
		err         error
		portRefused bool
		end         string
	}{
		{failed("bind", unix.EADDRINUSE), true, accesslog.Exhausted},
		{failed("bind", unix.EACCES), true, accesslog.Failed},
		{failed("connect", unix.EADDRINUSE), true, accesslog.Exhausted},
		{failed("connect", unix.EADDRNOTAVAIL), true, accesslog.Exhausted},
		{failed("bind", unix.EADDRNOTAVAIL), false, accesslog.Unprepared},
		{failed("connect", unix.EINVAL), false, accesslog.Unprepared},
		{failed("connect", unix.ECONNREFUSED), false, accesslog.Refused},
		{failed("connect", unix.ECONNRESET), false, accesslog.Refused},
		{failed("connect", unix.ETIMEDOUT), false, accesslog.Unreachable},
		{failed("connect", unix.EHOSTUNREACH), false, accesslog.Unreachable},
		{failed("connect", unix.ENETUNREACH), false, accesslog.Unreachable},
		{failed("connect", os.ErrDeadlineExceeded), false, accesslog.Unreachable},
		{failed("socket", unix.EMFILE), false, accesslog.Exhausted},
		{failed("socket", unix.ENFILE), false, accesslog.Exhausted},
		{errNoPort, false, accesslog.Exhausted},
		{failed("connect", unix.EPERM), false, accesslog.Failed},
	} {
		if got := portRefused(tt.err); got != tt.portRefused {
			t.Errorf("%v: another port may do: %v", tt.err, got)
		}
		explained := explain(tt.err)
		if got := Outcome(explained).How; got != tt.end {
			t.Errorf("%v: ends %q, want %q", tt.err, got, tt.end)
		}
		if tt.end == accesslog.Unprepared && !strings.Contains(fmt.Sprint(explained), "annotation tproxy-cni.io/mode") {
			t.Errorf("no cure in %q", explained)
		}
	}
}

// TestNext: which sources a dial tries, one after the other, as the kernel
// refuses them.
func TestNext(t *testing.T) {
	var (
		inUse   = os.NewSyscallError("bind", unix.EADDRINUSE)
		there   = os.NewSyscallError("connect", unix.EADDRNOTAVAIL)
		refused = os.NewSyscallError("connect", unix.ECONNREFUSED)
	)
	const namedClient = "+192.0.2.1:40000" // by a header
	const clientPort, ours, own = "192.0.2.1:40000", "192.0.2.1:?", "invalid AddrPort"
	for _, tt := range []struct {
		name, mode, client string
		fails              []error
		want               []string // the last may be an ending
	}{
		{"nat", contract.ModeNAT, clientPort, nil, []string{clientPort}},
		{"nat, port in use", contract.ModeNAT, clientPort, []error{inUse, there}, []string{clientPort, ours, ours}},
		{"nat, refused", contract.ModeNAT, clientPort, []error{refused}, []string{clientPort, accesslog.Refused}},
		{"nat, refused at another port", contract.ModeNAT, clientPort, []error{inUse, refused}, []string{clientPort, ours, accesslog.Refused}},
		{"tproxy", contract.ModeTProxy, clientPort, nil, []string{ours}},
		{"tproxy, a refusal is not believed once", contract.ModeTProxy, clientPort, []error{refused, refused}, []string{ours, ours, accesslog.Refused}},
		{"tproxy, no memory", contract.ModeTProxy, clientPort, []error{os.NewSyscallError("socket", unix.ENOMEM)}, []string{ours, accesslog.Exhausted}},
		{"nat, named", contract.ModeNAT, namedClient, []error{refused}, []string{clientPort, accesslog.Refused}},
		{"tproxy, named", contract.ModeTProxy, namedClient, nil, []string{clientPort}},
		{"tproxy, named, port in use", contract.ModeTProxy, namedClient, []error{there}, []string{clientPort, ours}},
		{"tproxy, named, a refusal is not believed once", contract.ModeTProxy, namedClient, []error{refused, refused}, []string{clientPort, ours, accesslog.Refused}},
		{"nat, named without a port", contract.ModeNAT, "+192.0.2.1:0", nil, []string{ours}},
		{"tproxy, named without a port", contract.ModeTProxy, "+192.0.2.1:0", nil, []string{ours}},
		{"the pod itself", contract.ModeNAT, "192.0.2.2:40000", []error{refused}, []string{own, accesslog.Refused}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := &interfaces{addrs: []string{"192.0.2.2/24"}}
			d := &Dialer{mode: tt.mode, own: &Addrs{list: i.list}}
			dst := netip.MustParseAddrPort("192.0.2.2:80")
			client, named := strings.CutPrefix(tt.client, "+")
			from := netip.MustParseAddrPort(client)
			if err := d.Check(from.Addr(), dst); err != nil {
				t.Fatal(err)
			}
			var a Attempt
			if named {
				a.Named()
			}
			pr := Pair{from.Addr(), dst}
			used := map[netip.AddrPort]bool{}
			for i, want := range tt.want {
				var failed error
				if i > 0 {
					failed = tt.fails[i-1]
				}
				source, err := d.Next(&a, pr, from, failed)
				got := source.String()
				switch {
				case err != nil:
					got = Outcome(err).How
				case want == ours && source.Addr() == from.Addr() && source.Port() < contract.SpoofPortHigh+1 && !used[source]:
					got = ours
				}
				used[source] = true
				if got != want {
					t.Errorf("attempt %d: %s (%v), want %s", i, got, err, want)
				}
			}
			a.end(&d.ports, pr)
			if len(d.ports.one)+len(d.ports.more) > 0 {
				t.Errorf("ports are left: %v, %v", d.ports.one, d.ports.more)
			}
		})
	}
	t.Run("no port is left", func(t *testing.T) {
		i := &interfaces{addrs: []string{"192.0.2.2/24"}}
		d := &Dialer{mode: contract.ModeTProxy, own: &Addrs{list: i.list}}
		from := netip.MustParseAddrPort(clientPort)
		pr := Pair{from.Addr(), netip.MustParseAddrPort("192.0.2.2:80")}
		for range spoofPorts {
			if _, err := d.take(pr); err != nil {
				t.Fatal(err)
			}
		}
		var a Attempt
		if _, err := d.Next(&a, pr, from, nil); Outcome(err).How != accesslog.Exhausted || a.tries != 1 {
			t.Errorf("%d tries, %v", a.tries, err)
		}
		a.end(&d.ports, pr)
	})
	t.Run("no end of refusals", func(t *testing.T) {
		i := &interfaces{addrs: []string{"192.0.2.2/24"}}
		d := &Dialer{mode: contract.ModeTProxy, own: &Addrs{list: i.list}}
		from := netip.MustParseAddrPort(clientPort)
		pr := Pair{from.Addr(), netip.MustParseAddrPort("192.0.2.2:80")}
		var a Attempt
		_, err := d.Next(&a, pr, from, nil)
		tries := 0
		for ; err == nil; tries++ {
			_, err = d.Next(&a, pr, from, inUse)
		}
		if tries != maxTries || Outcome(err).How != accesslog.Exhausted {
			t.Errorf("%d tries, then %v", tries, err)
		}
	})
}
