package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// answer accepts connections in the pod and answers each text with its own
// name before it. The sidecar's stand-in is transparent, for tproxy mode.
func answer(t *testing.T, pod *lab.NS, name string, port int) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if name != "sidecar" {
			return nil
		}
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
		})
		return errors.Join(cerr, err)
	}}
	lc.SetMultipathTCP(false)
	var ln net.Listener
	// A socket belongs to the fsuid of the thread that makes it.
	as := func(uid int) {
		if name == "sidecar" {
			must(t, unix.Setfsuid(uid))
		}
	}
	must(t, pod.Do(func() (err error) {
		as(contract.ProxyUID)
		defer as(0)
		ln, err = lc.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		as(contract.ProxyUID)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					fmt.Fprintf(conn, "%s %s", name, buf[:n])
				}
			}()
		}
	}()
}

func ask(conn net.Conn, text string) (string, error) {
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// usual are the plugin's settings for a mode, on this kernel.
func usual(t testing.TB, mode contract.Mode) intercept.Config {
	c := intercept.Default(mode)
	c.PacketGuard = lab.PacketGuard(t)
	return c
}

// TestRepair: a pod that started before the plugin is intercepted from now on,
// its connections go on, and others are left alone.
func TestRepair(t *testing.T) {
	for _, mode := range preflight.Modes() {
		t.Run(mode, func(t *testing.T) {
			late, right, plain := wired(t), wired(t), wired(t)
			annotations := map[string]string{contract.AnnotationPrefix + "mode": mode, "other/annotation": "x"}
			must(t, intercept.Apply(right.Pod.Path(), usual(t, contract.Mode(mode))))
			answer(t, late.Pod, "application", 8080)
			answer(t, late.Pod, "sidecar", contract.ProxyPort)

			dial := func(ip string) net.Conn {
				conn, err := late.Client.Dial("tcp", "", net.JoinHostPort(ip, "8080"))
				must(t, err)
				t.Cleanup(func() { conn.Close() })
				return conn
			}
			wantAnswer := func(conn net.Conn, from string) {
				t.Helper()
				got, err := ask(conn, "hello")
				if err != nil || got != from+" hello" {
					t.Errorf("%v: %q, want %s", conn.RemoteAddr(), got, from)
				}
			}
			running := []net.Conn{dial(lab.Pod4), dial(lab.Pod6)}
			for _, c := range running {
				wantAnswer(c, "application")
			}

			fake := &fakeRuntime{}
			fake.set(
				fakePod{name: "late", netns: late.Pod.Path(), annotations: annotations},
				fakePod{name: "right", netns: right.Pod.Path(), annotations: annotations},
				fakePod{name: "plain", netns: plain.Pod.Path(), annotations: map[string]string{"other/annotation": "x"}},
				fakePod{name: "host", netns: plain.Pod.Path(), annotations: annotations, host: true},
				fakePod{name: "machine", netns: plain.Pod.Path(), annotations: annotations, handler: "kata-qemu"},
				fakePod{name: "wrong", netns: plain.Pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": "nut"}},
				fakePod{name: "none", netns: plain.Pod.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": "none"}},
				fakePod{name: "gone", netns: "/run/netns/not-there", annotations: annotations},
			)
			n := newTestNode(t, "10-flannel.conflist")
			s := n.start("install", "--preflight=false", "--packet-guard", string(lab.PacketGuard(t)), "--repair", "--repair-every", "1s", "--cri-socket", "unix://"+serveRuntime(t, fake))
			s.want("/metrics", 200, `tproxy_install_pods_repaired_total{kind="came_first",result="repaired"} 1`,
				`tproxy_install_pods_repaired_total{kind="invalid",result="failed"} 1`,
				`tproxy_install_pods_repaired_total{kind="unknown",result="failed"} 1`,
				fmt.Sprintf(`tproxy_install_pods{mode=%q,state="intercepted"} 2`, mode),
				fmt.Sprintf(`tproxy_install_pods{mode=%q,state="host_network"} 1`, mode),
				fmt.Sprintf(`tproxy_install_pods{mode=%q,state="other_stack"} 1`, mode),
				fmt.Sprintf(`tproxy_install_pods{mode=%q,state="unknown"} 1`, mode),
				`tproxy_install_pods{mode="nat",state="left_alone"} 1`, `tproxy_install_pods{mode="none",state="invalid"} 1`)

			for _, c := range running {
				wantAnswer(c, "application")
			}
			wantAnswer(dial(lab.Pod4), "sidecar")
			wantAnswer(dial(lab.Pod6), "sidecar")
			must(t, intercept.Check(late.Pod.Path(), usual(t, contract.Mode(mode)), podAddresses))
			if got := plain.Pod.Run("nft", "list", "ruleset"); got != "" {
				t.Errorf("a pod that did not ask was programmed:\n%s", got)
			}
			// What comes and goes with the interface and its addresses is mended, too.
			late.Pod.Sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1")
			for i, spoil := range []func(){
				func() {
					late.Pod.Run("ip", "link", "set", "eth0", "down")
					late.Pod.Run("ip", "link", "set", "eth0", "up")
				},
				func() {
					late.Pod.Run("nft", "add element inet tproxy_cni learned4 { 192.0.2.9 }") // had been eth0's
				},
			} {
				spoil()
				s.want("/metrics", 200, fmt.Sprintf(`tproxy_install_pods_repaired_total{kind="drifted",result="repaired"} %d`, i+1))
				must(t, intercept.Check(late.Pod.Path(), usual(t, contract.Mode(mode)), podAddresses))
			}

			log := s.log.String()
			for _, text := range []string{
				"programmed a pod that started before the plugin\" pod=test/late",
				"pod=test/wrong sandbox=id-wrong err=\"annotation tproxy-cni.io/mode",
				"pod=test/gone",
				`ipv6 route \"local default dev eth0 table 29808 metric 2048\" is missing`,
				"set learned4 of table inet tproxy_cni holds 192.0.2.9, which no interface has",
			} {
				if !strings.Contains(log, text) {
					t.Errorf("not in the log: %s", text)
				}
			}
			if strings.Count(log, "pod=test/") != 5 {
				t.Errorf("lines about other pods:\n%s", log)
			}

			// A pod that was started between a rewrite of the list and its repair.
			fake.set(fakePod{name: "between", netns: plain.Pod.Path(), annotations: annotations})
			n.WriteConf("10-flannel.conflist", n.Configs["10-flannel.conflist"])
			s.want("/metrics", 200, `tproxy_install_pods_repaired_total{kind="came_first",result="repaired"} 2`)
			s.stop()
		})
	}
}

// TestRepairAndTheRuntime: what the runtime does to a pod between the look that found
// it wrong and the repair is not undone, counted or said.
func TestRepairAndTheRuntime(t *testing.T) {
	adding, deleting, vanishing := wired(t).Pod, wired(t).Pod, lab.New(t, "vanishing")
	asks := map[string]string{contract.AnnotationPrefix + "mode": "nat"}
	list := []fakePod{
		{name: "adding", netns: adding.Path(), annotations: asks},
		{name: "deleting", netns: deleting.Path(), annotations: asks},
		{name: "vanishing", netns: vanishing.Path(), annotations: asks},
	}
	fake := &fakeRuntime{}
	fake.set(list...)
	var add error
	fake.onAsked = func(name string, nth int) {
		switch {
		case nth != 2: // the second is right before the repair
		case name == "adding":
			add = intercept.Apply(adding.Path(), usual(t, contract.ModeNAT))
		case name == "deleting":
			fake.set(list[0], fakePod{name: "deleting", stopped: true}, list[2])
		case name == "vanishing":
			vanishing.Remove()
			fake.set(list[0])
		}
	}
	n := newTestNode(t, "10-flannel.conflist")
	s := n.start("install", "--preflight=false", "--packet-guard", string(lab.PacketGuard(t)), "--repair", "--repair-every", "1s", "--cri-socket", serveRuntime(t, fake))
	s.want("/metrics", 200, `tproxy_install_pods{mode="nat",state="intercepted"} 1`)
	must(t, add)
	if got := deleting.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("a pod that was stopped has been programmed:\n%s", got)
	}
	_, metrics, err := s.get("/metrics")
	must(t, err)
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "tproxy_install_pods_repaired_total{") && !strings.HasSuffix(line, " 0\n") {
			t.Errorf("counted: %s", line)
		}
	}
	s.stop()
	if strings.Contains(s.log.String(), "pod=test/") {
		t.Errorf("lines about them:\n%s", s.log)
	}
}

// TestRepairWithoutRuntime: a missing socket is logged once, and does not keep the
// installer from its other work.
func TestRepairWithoutRuntime(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	s := n.start("install", "--preflight=false", "--repair", "--cri-socket", filepath.Join(t.TempDir(), "none.sock"))
	s.want("/readyz", 200)
	lab.Eventually(t, "an error that names the socket", func() error {
		if !strings.Contains(s.log.String(), "none.sock") {
			return fmt.Errorf("%s", s.log)
		}
		return nil
	})
	s.stop()
}

// TestRepairSparesTheNode: a runtime that names the node's network namespace for
// a pod's is refused, also while the main thread is in another namespace, as
// after a CHECK that ran on it. Here a namespace stands for the node's.
func TestRepairSparesTheNode(t *testing.T) {
	stand := wired(t).Pod
	before := stand.Run("nft", "list", "ruleset")
	for _, stray := range []bool{false, true} {
		fake := &fakeRuntime{}
		fake.set(fakePod{name: "node", netns: stand.Path(), annotations: map[string]string{contract.AnnotationPrefix + "mode": "nat"}})
		cmd := newTestNode(t, "10-flannel.conflist").command("install", "--preflight=false", "--listen", "127.0.0.1:0",
			"--repair", "--cri-socket", serveRuntime(t, fake))
		if stray {
			cmd.Env = append(cmd.Env, envStray+"=1")
		}
		p := stand.StartCmd(cmd)
		lab.Eventually(t, "a refusal", func() error {
			if !strings.Contains(p.Output(), "is the node's own network namespace") {
				return errors.New(p.Output())
			}
			return nil
		})
		p.Kill()
		if after := stand.Run("nft", "list", "ruleset"); after != before {
			t.Errorf("stray main thread %t: the node was programmed:\n%s", stray, after)
		}
	}
}

// TestManyPods: a list of pods as long as the kubelet accepts it from a runtime.
func TestManyPods(t *testing.T) {
	fake := &fakeRuntime{}
	annotations := map[string]string{"large": strings.Repeat("x", 200<<10), contract.AnnotationPrefix + "mode": "none"}
	var pods []fakePod
	for i := range 50 { // 10 MB
		pods = append(pods, fakePod{name: fmt.Sprint(i), annotations: annotations})
	}
	fake.set(append(pods, fakePod{name: "last", annotations: map[string]string{contract.AnnotationPrefix + "mode": "nut"}})...)
	s := newTestNode(t, "10-flannel.conflist").start("install", "--preflight=false", "--repair", "--cri-socket", serveRuntime(t, fake))
	s.want("/metrics", 200, `tproxy_install_pods_repaired_total{kind="invalid",result="failed"} 1`)
	s.stop()
}
