package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
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
	must(t, pod.Do(func() (err error) {
		ln, err = lc.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	go func() {
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

// TestRepair: a pod that started before the plugin is intercepted from now on,
// its connections go on, and others are left alone.
func TestRepair(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			late, right, plain := wired(t), wired(t), wired(t)
			annotations := map[string]string{contract.AnnotationPrefix + "mode": mode, "other/annotation": "x"}
			must(t, redirect.Apply(right.Pod.Path(), redirect.Default(mode)))
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
				fakePod{"late", late.Pod.Path(), annotations, false},
				fakePod{"right", right.Pod.Path(), annotations, false},
				fakePod{"plain", plain.Pod.Path(), map[string]string{"other/annotation": "x"}, false},
				fakePod{"host", plain.Pod.Path(), annotations, true},
				fakePod{"wrong", plain.Pod.Path(), map[string]string{contract.AnnotationPrefix + "mode": "nut"}, false},
				fakePod{"none", plain.Pod.Path(), map[string]string{contract.AnnotationPrefix + "mode": "none"}, false},
				fakePod{"gone", "/run/netns/not-there", annotations, false},
			)
			n := newTestNode(t, "10-flannel.conflist")
			s := n.start("install", "--preflight=false", "--repair", "--cri-socket", "unix://"+serveRuntime(t, fake))
			s.want("/metrics", 200, `tproxy_install_pods_repaired_total{result="repaired"} 1`,
				`tproxy_install_pods_repaired_total{result="failed"} 2`)

			for _, c := range running {
				wantAnswer(c, "application")
			}
			wantAnswer(dial(lab.Pod4), "sidecar")
			wantAnswer(dial(lab.Pod6), "sidecar")
			must(t, redirect.Check(late.Pod.Path(), redirect.Default(mode), podAddresses))
			if got := plain.Pod.Run("nft", "list", "ruleset"); got != "" {
				t.Errorf("a pod that did not ask was programmed:\n%s", got)
			}
			log := s.log.String()
			for _, text := range []string{
				"repaired a pod that had started without the plugin\" pod=test/late",
				"pod=test/wrong sandbox=id-wrong err=\"annotation tproxy-cni.io/mode",
				"pod=test/gone",
			} {
				if !strings.Contains(log, text) {
					t.Errorf("not in the log: %s", text)
				}
			}
			if strings.Count(log, "pod=test/") != 3 {
				t.Errorf("lines about other pods:\n%s", log)
			}

			// A pod that came between a rewrite of the list and our patch.
			fake.set(fakePod{"between", plain.Pod.Path(), annotations, false})
			n.writeConf("10-flannel.conflist", n.configs["10-flannel.conflist"])
			s.want("/metrics", 200, `tproxy_install_pods_repaired_total{result="repaired"} 2`)
			s.stop()
		})
	}
}

// TestRepairWithoutRuntime: no socket is told, once, and hinders nothing.
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

// TestManyPods: the runtime's list is as long as the kubelet would take it.
func TestManyPods(t *testing.T) {
	fake := &fakeRuntime{}
	annotations := map[string]string{"large": strings.Repeat("x", 200<<10), contract.AnnotationPrefix + "mode": "none"}
	var pods []fakePod
	for i := range 50 { // 10 MB
		pods = append(pods, fakePod{name: fmt.Sprint(i), annotations: annotations})
	}
	fake.set(append(pods, fakePod{"last", "", map[string]string{contract.AnnotationPrefix + "mode": "nut"}, false})...)
	s := newTestNode(t, "10-flannel.conflist").start("install", "--preflight=false", "--repair", "--cri-socket", serveRuntime(t, fake))
	s.want("/metrics", 200, `tproxy_install_pods_repaired_total{result="failed"} 1`)
	s.stop()
}

// TestNotOurs looks only: what it is about must never be tried.
func TestNotOurs(t *testing.T) {
	if err := notOurs(ownNetNS); err == nil || !strings.Contains(err.Error(), "the node's own network namespace") {
		t.Errorf("own: %v", err)
	}
	lab.Need(t)
	if err := notOurs(lab.New(t, "pod").Path()); err != nil {
		t.Errorf("another: %v", err)
	}
}

// TestNetNSPath: what runtimes tell of a sandbox, with what does not matter cut
// short: containerd 2.1 as `crictl inspectp` shows it; CRI-O 1.34 after its
// server/sandbox_status.go, with an infra container and, by default, without.
func TestNetNSPath(t *testing.T) {
	const namespaces = `"linux":{"resources":{"cpu":{"shares":2}},"cgroupsPath":"kubepods","namespaces":[` +
		`{"type":"pid"},{"type":"network","path":"PATH"},{"type":"uts","path":"/var/run/utsns/46775c43"}],"maskedPaths":["/proc/acpi"]}`
	path := filepath.Join(t.TempDir(), "46775c43-417c-4b84-891b-0053bc45c006")
	must(t, os.WriteFile(path, nil, 0o600))
	for name, text := range map[string]string{
		"containerd": `{"pid":4711,"processStatus":"running","netNamespaceClosed":false,"image":"pause:3.10","snapshotKey":"a","snapshotter":"overlayfs",` +
			`"runtimeHandler":"","runtimeType":"io.containerd.runc.v2","runtimeOptions":null,"config":{"metadata":{"name":"web"},"linux":{"cgroup_parent":"kubepods"}},` +
			`"runtimeSpec":{"ociVersion":"1.2.1","annotations":{"io.kubernetes.cri.sandbox-id":"a"},` + namespaces + `},` +
			`"cniResult":{"Interfaces":{"eth0":{"IPConfigs":[{"IP":"192.168.1.1"}],"Sandbox":"PATH"}}}}`,
		"CRI-O, infra container": `{"image":"registry.k8s.io/pause:3.10","pid":4711,"runtimeSpec":{"ociVersion":"1.2.1","process":{"args":["/pause"]},` + namespaces + `}}`,
		"CRI-O":                  `{"runtimeSpec":{"ociVersion":"1.2.1","annotations":{"io.kubernetes.cri-o.Spoofed":"true"},` + namespaces + `}}`,
	} {
		got, err := netNSPath(map[string]string{"info": strings.ReplaceAll(text, "PATH", path)})
		if err != nil || got != path {
			t.Errorf("%s: %q %v", name, got, err)
		}
		// The node's /var/run is a link to /run, which our image lacks.
		_, err = netNSPath(map[string]string{"info": strings.ReplaceAll(text, "PATH", "/var/run/netns/gone")})
		if err == nil || !strings.Contains(err.Error(), " /run/netns/gone:") {
			t.Errorf("%s, gone: %v", name, err)
		}
	}
	for text, want := range map[string]string{
		"":   "has no info of the sandbox",
		"{}": "names no network namespace", // CRI-O 1.20, which lacks the annotations, too
		`{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"},{"type":"pid","path":"/proc/1/ns/pid"}]}}}`: "names no network namespace",
		`[`: "read the runtime's info",
	} {
		if _, err := netNSPath(map[string]string{"info": text}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", text, err)
		}
	}
}
