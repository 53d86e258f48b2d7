package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// TestVerbs is a pod's life in every version of the specification.
func TestVerbs(t *testing.T) {
	for _, version := range supported.SupportedVersions() {
		t.Run(version, func(t *testing.T) {
			n := newPod(t)
			before := state(n.Pod)
			in := conf(version, dual, annotated("mode", "nat"))
			do := func(verb string) answer { return call{command: verb, netns: n.Pod.Path(), stdin: in}.run(t, n.Node) }
			must := func(verb string) string {
				t.Helper()
				return call{command: verb, netns: n.Pod.Path(), stdin: in}.ok(t, n.Node)
			}

			equalJSON(t, in["prevResult"], must("ADD"))
			once := state(n.Pod)
			if cmp.Equal(before, once) {
				t.Fatal("ADD changes nothing")
			}
			must("ADD")
			if diff := cmp.Diff(once, state(n.Pod)); diff != "" {
				t.Errorf("ADD twice is not as once (-once +twice):\n%s", diff)
			}
			if strings.HasPrefix(version, "0.3.") {
				if a := do("CHECK"); a.code != 1 {
					t.Errorf("CHECK: %+v", a)
				}
			} else {
				must("CHECK")
				n.Pod.Run("nft", "delete table netdev tproxy_cni")
				if a := do("CHECK"); a.code != errDrift || a.msg != "table netdev tproxy_cni is missing" {
					t.Errorf("CHECK of a pod without a table: %+v", a)
				}
			}
			for range 2 {
				must("DEL")
				if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
					t.Errorf("before ADD and after DEL differ:\n%s", diff)
				}
			}
			for _, verb := range []string{"STATUS", "GC"} {
				if version == "1.1.0" {
					if out := must(verb); out != "" {
						t.Errorf("%s says %q", verb, out)
					}
				} else if a := do(verb); a.code != 1 {
					t.Errorf("%s: %+v", verb, a)
				}
			}
		})
	}
}

// TestFamilies: pods with one family, and an excluded CIDR of the other.
func TestFamilies(t *testing.T) {
	for _, tt := range []struct{ name, addr, drop, fits, fitsNot string }{
		{"IPv4", dual[0], lab.Pod6 + "/64", "10.0.0.0/8", "fd00::/8"},
		{"IPv6", dual[1], lab.Pod4 + "/24", "fd00::/8", "10.0.0.0/8"},
	} {
		for _, mode := range []string{"nat", "tproxy"} {
			t.Run(tt.name+" "+mode, func(t *testing.T) {
				n := newPod(t)
				n.Pod.Run("ip", "addr", "del", tt.drop, "dev", "eth0")
				before := state(n.Pod)
				add := func(cidrs string) answer {
					in := conf("1.1.0", []string{tt.addr}, annotated("mode", mode, "exclude-source-cidrs", cidrs))
					return call{command: "ADD", netns: n.Pod.Path(), stdin: in}.run(t, n.Node)
				}
				if a := add(tt.fitsNot); a.code != errAnnotation || !strings.Contains(a.msg, tt.fitsNot+" matches nothing") {
					t.Errorf("%+v", a)
				}
				if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
					t.Errorf("a fault, and yet something is programmed:\n%s", diff)
				}
				if a := add(tt.fits); a.failed {
					t.Errorf("%+v", a)
				}
			})
		}
	}
}

// TestFaultsProgramNothing: one error has all faults, in words for `kubectl
// describe pod`.
func TestFaultsProgramNothing(t *testing.T) {
	n := newPod(t)
	before := state(n.Pod)
	broken := annotated("mode", "nut", "proxy-port", "0")
	const two = `annotation tproxy-cni.io/mode "nut": no such mode (want nat, tproxy or none); ` +
		`annotation tproxy-cni.io/proxy-port "0": "0" is not a port (want 1-65535)`
	a := call{command: "ADD", netns: n.Pod.Path(), stdin: conf("1.1.0", dual, broken)}.run(t, n.Node)
	if a.code != errAnnotation || a.msg != two {
		t.Errorf("%+v", a)
	}
	broken["mode"] = "nit"
	const three = `conflist key mode "nit": no such mode (want nat, tproxy or none); ` + two
	for _, verb := range []string{"ADD", "CHECK"} {
		a := call{command: verb, netns: n.Pod.Path(), stdin: conf("1.1.0", dual, broken)}.run(t, n.Node)
		if a.code != types.ErrInvalidNetworkConfig || a.msg != three {
			t.Errorf("%s: %+v", verb, a)
		}
	}
	// STATUS looks at what is wrong for all pods; DEL at nothing.
	in := conf("1.1.0", dual, broken)
	if a := (call{command: "STATUS", stdin: in}).run(t, n.Node); a.code != types.ErrInvalidNetworkConfig || !strings.Contains(a.msg, `"nit"`) || strings.Contains(a.msg, `"nut"`) {
		t.Errorf("STATUS: %+v", a)
	}
	for _, netns := range []string{n.Pod.Path(), "", "/run/netns/never-was"} {
		call{command: "DEL", netns: netns, stdin: in}.ok(t, n.Node)
	}
	call{command: "GC", stdin: in}.ok(t, n.Node)
	if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
		t.Errorf("faults, and yet something is programmed:\n%s", diff)
	}
}

// TestLeftAlone: for a pod without a mode nothing is asked of the kernel: its
// namespace does not exist, and who asks may nothing.
func TestLeftAlone(t *testing.T) {
	node := lab.New(t, "node")
	nobody := strings.Join(lab.User{UID: 65534, NoNewPrivs: true}.Args("x"), " ")
	nobody = strings.TrimSuffix(nobody, " x")
	optedOut := annotated("mode", "none")
	optedOut["mode"] = "nat"
	for name, with := range map[string]object{
		"nothing said": nil, "no annotation of ours": annotated(), "opted out": optedOut,
		"defaults without a mode": {"proxyPort": 6000},
	} {
		t.Run(name, func(t *testing.T) {
			in := conf("1.0.0", dual, with)
			c := call{command: "ADD", netns: "/run/netns/never-was", stdin: in, user: nobody}
			equalJSON(t, in["prevResult"], c.ok(t, node))
			c.command = "CHECK"
			c.ok(t, node)
		})
	}
	// A typing error counts all the same: its author wants something.
	a := call{command: "ADD", netns: "/run/netns/never-was", stdin: conf("1.0.0", dual, annotated("mod", "nat"))}.run(t, node)
	if a.code != errAnnotation || !strings.Contains(a.msg, `annotation tproxy-cni.io/mod "nat": unknown`) {
		t.Errorf("%+v", a)
	}
}

// TestNamespaces that ADD refuses.
func TestNamespaces(t *testing.T) {
	n := newPod(t)
	before := state(n.Pod)
	for _, tt := range []struct {
		name, netns, ifname string
		runsIn              *lab.NS
		code                uint
		msg                 string
	}{
		{"gone", "/run/netns/never-was", "", n.Node, types.ErrInvalidNetNS, "never-was"},
		{"no namespace", "/etc/passwd", "", n.Node, types.ErrInvalidNetNS, "/etc/passwd"},
		{"its own, the node's", n.Pod.Path(), "", n.Pod, types.ErrInvalidNetNS, "own network namespace"},
		{"no such interface", n.Pod.Path(), "net7", n.Node, errKernel, `"net7"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := conf("1.1.0", dual, annotated("mode", "nat"))
			a := call{command: "ADD", netns: tt.netns, ifname: tt.ifname, stdin: in}.run(t, tt.runsIn)
			if a.code != tt.code || !strings.Contains(a.msg, tt.msg) {
				t.Errorf("%+v", a)
			}
		})
	}
	if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
		t.Errorf("refused, and yet something is programmed:\n%s", diff)
	}
}

// TestFailedAdd: when the kernel refuses a step in the middle, the error names
// it and the steps before are undone. The netdev table belongs to another
// process, so the transaction that follows the ip rules is refused.
func TestFailedAdd(t *testing.T) {
	lab.NeedKernel(t, lab.TableOwner)
	n := newPod(t)
	stdin, hold := io.Pipe()
	nft := exec.Command("nft", "-i")
	nft.Stdin = stdin
	owner := n.Pod.StartCmd(nft)
	if _, err := io.WriteString(hold, "add table netdev tproxy_cni { flags owner; }\n"); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, "the table is there", func() error {
		_, err := n.Pod.Try("nft", "list", "table", "netdev", "tproxy_cni")
		return err
	})
	before := state(n.Pod)
	in := conf("1.1.0", dual, annotated("mode", "tproxy"))
	c := call{command: "ADD", netns: n.Pod.Path(), stdin: in}
	if a := c.run(t, n.Node); a.code != errKernel || !strings.Contains(a.msg, "program nftables") {
		t.Errorf("%+v", a)
	}
	if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
		t.Errorf("before and after the failed ADD differ:\n%s", diff)
	}
	// DEL cannot take out that table: it says so, and keeps no pod.
	c.command = "DEL"
	if a := c.run(t, n.Node); a.failed || a.stdout != "" || !strings.Contains(a.stderr, "delete nftables tables") {
		t.Errorf("%+v", a)
	}
	hold.Close()
	_ = owner.Wait()
	c.command = "ADD"
	c.ok(t, n.Node)
}

// TestPrevResultOfAnotherVersion is passed on in the version that is asked for.
func TestPrevResultOfAnotherVersion(t *testing.T) {
	node := lab.New(t, "node")
	in := conf("0.4.0", dual, nil)
	in["cniVersion"] = "1.0.0"
	equalJSON(t, conf("1.0.0", dual, nil)["prevResult"], call{command: "ADD", netns: "/x", stdin: in}.ok(t, node))

	// What no type knows passes, too; and a result may lack its version.
	in = conf("0.3.1", dual, nil)
	delete(in["prevResult"].(object), "cniVersion")
	in["prevResult"].(object)["vendor"] = 1
	equalJSON(t, in["prevResult"], call{command: "ADD", netns: "/x", stdin: in}.ok(t, node))
}

// TestPodAddrs: prevResult may name addresses on the node's side, too.
func TestPodAddrs(t *testing.T) {
	for version, want := range map[string][]string{"0.3.0": {lab.Pod4, lab.Pod6}, "0.3.1": {lab.Pod4, lab.Pod6}, "1.1.0": {lab.Pod4, lab.Pod6}} {
		prev := conf(version, dual, nil)["prevResult"].(object)
		node := object{"address": "192.0.2.1/24", "interface": 0, "version": "4"}
		prev["ips"] = append(prev["ips"].([]object), node)
		raw, err := json.Marshal(prev)
		if err != nil {
			t.Fatal(err)
		}
		_, addrs, err := previous(raw, version)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range addrs {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", version, diff)
		}
	}
}

func TestKernelError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want uint
	}{
		{fmt.Errorf("program nftables: %w", unix.ENOBUFS), types.ErrTryAgainLater},
		{fmt.Errorf("list addresses: %w", unix.EINTR), types.ErrTryAgainLater},
		{fmt.Errorf("add ipv4 rule: %w", unix.EPERM), errKernel},
		{fmt.Errorf("open: %w", intercept.NoNetNS{}), types.ErrInvalidNetNS},
	} {
		if got := kernelError(tt.err).(*types.Error).Code; got != tt.want {
			t.Errorf("%v: code %d, want %d", tt.err, got, tt.want)
		}
	}
}

// TestDefaultNote: ADD says on stderr what the node's default does to a pod that has no
// mode of its own.
func TestDefaultNote(t *testing.T) {
	for args, want := range map[string]string{
		"":                                      "",
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=":    "",
		"K8S_POD_NAMESPACE=demo;K8S_POD_NAME=a": "tproxy-cni: ADD: demo/a has no annotation tproxy-cni.io/mode, so the node's default applies, nat: ",
		"IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns-1": "tproxy-cni: ADD: kube-system/coredns-1 is left alone: its namespace is exempt (kube-*,openshift-*) from the node's default mode nat\n",
	} {
		n := newPod(t)
		in := conf("1.1.0", dual, object{"mode": "nat"})
		a := call{command: "ADD", netns: n.Pod.Path(), stdin: in, env: []string{"CNI_ARGS=" + args}}.run(t, n.Node)
		if a.failed || !strings.HasPrefix(a.stderr, want) || want == "" && a.stderr != "" {
			t.Errorf("%s: %+v", args, a)
		}
		if check := (call{command: "CHECK", netns: n.Pod.Path(), stdin: in, env: []string{"CNI_ARGS=" + args}}).run(t, n.Node); check.failed || check.stderr != "" {
			t.Errorf("CHECK %s: %+v", args, check)
		}
	}
}
