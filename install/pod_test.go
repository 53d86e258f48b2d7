package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// wired is a pod with both addresses and a client.
func wired(t *testing.T) *lab.Net {
	t.Helper()
	lab.Need(t)
	n := lab.NewNet(t)
	n.Wire()
	return n
}

var podAddresses = []netip.Addr{netip.MustParseAddr(lab.Pod4), netip.MustParseAddr(lab.Pod6)}

// TestSetup: an init container's CAP_NET_ADMIN is enough where the sysctls are
// right already; where they are not and cannot be written, they are named and
// nothing is changed.
func TestSetup(t *testing.T) {
	readOnly := []string{
		"unshare", "--mount", "sh", "-c",
		`mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"`, "sh",
	}
	for _, mode := range modes {
		for _, tc := range []struct {
			name   string
			front  []string
			preset bool
			fails  string
		}{
			{"sysctls preset", readOnly, true, ""},
			{"sysctls not preset", readOnly, false, "net.ipv4.tcp_fwmark_accept=1 net.ipv4.fwmark_reflect=1 net.ipv6.fwmark_reflect=1 net.ipv6.ip_nonlocal_bind=1"},
			{"privileged", nil, false, ""},
		} {
			t.Run(mode+" "+tc.name, func(t *testing.T) {
				pod := wired(t).Pod
				n := newTestNode(t)
				if tc.preset {
					for _, key := range redirect.Sysctls() {
						pod.Sysctl(key, "1")
					}
				}
				before := pod.Run("nft", "list", "ruleset") + pod.Run("ip", "rule")
				setup := func() (string, error) {
					user := lab.User{Caps: []string{"net_admin"}, NoNewPrivs: true}
					args := append(tc.front, user.Args(n.program(), "setup", "--mode", mode, "--include-inbound-ports", "80,8000-8099")...)
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Env = append(os.Environ(), envRun+"=1", "TPROXY_EXCLUDE_INBOUND_PORTS=8001")
					return pod.TryCmd(cmd)
				}
				out, err := setup()
				if tc.fails != "" {
					if err == nil || !strings.Contains(out, tc.fails) || !strings.Contains(out, "securityContext.sysctls") {
						t.Errorf("%v\n%s", err, out)
					}
					if after := pod.Run("nft", "list", "ruleset") + pod.Run("ip", "rule"); after != before {
						t.Errorf("changed:\n%s", after)
					}
					return
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				c := redirect.Default(mode)
				c.IncludePorts = []redirect.PortRange{{Low: 80, High: 80}, {Low: 8000, High: 8099}}
				c.ExcludePorts = []redirect.PortRange{{Low: 8001, High: 8001}}
				must(t, redirect.Check(pod.Path(), c, podAddresses))
				if out, err := setup(); err != nil { // the kubelet may run it again
					t.Errorf("twice: %v\n%s", err, out)
				}
				must(t, redirect.Check(pod.Path(), c, podAddresses))
			})
		}
	}
}

// fakeRuntime answers the two calls of CRI that repair makes.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	mu   sync.Mutex
	pods []fakePod
}

type fakePod struct {
	name, netns string
	annotations map[string]string
	host        bool
}

func (r *fakeRuntime) set(pods ...fakePod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pods = pods
}

func (r *fakeRuntime) ListPodSandbox(_ context.Context, q *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.GetFilter().GetState().GetState() != cri.PodSandboxState_SANDBOX_READY {
		return nil, fmt.Errorf("asked for other than ready pods")
	}
	out := &cri.ListPodSandboxResponse{}
	for _, p := range r.pods {
		out.Items = append(out.Items, &cri.PodSandbox{
			Id: "id-" + p.name, Annotations: p.annotations, Metadata: &cri.PodSandboxMetadata{Name: p.name, Namespace: "test"},
		})
	}
	return out, nil
}

func (r *fakeRuntime) PodSandboxStatus(_ context.Context, q *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		if "id-"+p.name != q.PodSandboxId || !q.Verbose {
			continue
		}
		network := cri.NamespaceMode_POD
		if p.host {
			network = cri.NamespaceMode_NODE
		}
		return &cri.PodSandboxStatusResponse{
			Status: &cri.PodSandboxStatus{
				Network: &cri.PodSandboxNetworkStatus{Ip: lab.Pod4, AdditionalIps: []*cri.PodIP{{Ip: lab.Pod6}}},
				Linux:   &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: network}}},
			},
			// As containerd 2 tells it, shortened.
			Info: map[string]string{"info": fmt.Sprintf(
				`{"pid":4711,"runtimeSpec":{"ociVersion":"1.2.1","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":%q}]}}}`, p.netns)},
		}, nil
	}
	return nil, fmt.Errorf("no sandbox %s", q.PodSandboxId)
}

// serveRuntime returns the socket.
func serveRuntime(t *testing.T, r *fakeRuntime) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	ln, err := net.Listen("unix", path)
	must(t, err)
	s := grpc.NewServer(grpc.MaxSendMsgSize(16 << 20)) // containerd's
	cri.RegisterRuntimeServiceServer(s, r)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return path
}

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
