package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

const noCapability = "0000000000000000"

// TestListen: `tproxy-proxy listen` opens the listeners of tproxy mode and becomes
// HAProxy, nginx or our sidecar, which serve clients of both families without having had
// a capability at any time. The proxies' configurations are those of the recipes.
func TestListen(t *testing.T) {
	lab.Need(t, "haproxy", "nginx", "setcap")
	p := newPod(t, setup{mode: contract.ModeTProxy, bare: true})
	p.nginx(t)
	d := dir(t, contract.ProxyUID)
	plain, exe := bin(t, "tproxy-proxy"), withFileCapability(t, d)
	config := func(recipe string, changes ...string) string {
		text, err := os.ReadFile("../k8s/proxies/" + recipe)
		if err != nil {
			t.Fatal(err)
		}
		return write(t, filepath.Join(d, filepath.Base(recipe)), strings.NewReplacer(changes...).Replace(string(text)))
	}
	haproxy := config("haproxy-tcp/haproxy.cfg", "bind 0.0.0.0:5000", "bind fd@3", "bind [::]:5000 v6only", "bind fd@4")
	nginx := config("nginx-stream/nginx.conf", "/tmp/nginx.pid", d+"/pid")

	netRaw := lab.User{UID: contract.ProxyUID, Caps: []string{"net_raw"}, NoNewPrivs: true}
	setpcap := lab.User{UID: contract.ProxyUID, Caps: []string{"net_raw", "setpcap"}}
	file := lab.User{UID: contract.ProxyUID, Bounding: []string{"net_raw"}} // as the image has it
	const onlyNetRaw = "0000000000002000"
	for _, c := range []struct {
		name     string
		user     lab.User
		bounding string
		exe      string
		command  []string
		reload   syscall.Signal
	}{
		{"HAProxy", setpcap, noCapability, plain, []string{"--", "haproxy", "-W", "-f", haproxy}, syscall.SIGUSR2},
		{"HAProxy, file capability", file, onlyNetRaw, exe, []string{"--", "haproxy", "-db", "-f", haproxy}, 0},
		{"nginx, file capability", file, onlyNetRaw, exe, []string{
			"--", "env", "NGINX=3;4;", "nginx", "-e", "stderr", "-c", nginx,
			"-g", "load_module " + streamModule(t) + ";",
		}, syscall.SIGHUP},
		{"our sidecar", netRaw, onlyNetRaw, plain, []string{"--dual-stack", "--", plain, "--mode", "tproxy"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := c.user.Args(append([]string{c.exe, "listen"}, c.command...)...)
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = d // HAProxy returns to it: a checkout below /root is closed to it
			proxy := p.Pod.StartCmd(cmd).WaitListen(contract.ProxyPort)
			defer p.killGroup(t, proxy)
			p.inFamilies(t, p.wantExact)
			for pid := range processes(t, proxy) {
				for _, status := range threads(t, pid) {
					got := fmt.Sprint(status["CapEff"], status["CapPrm"], status["CapInh"], status["CapAmb"], status["CapBnd"], status["NoNewPrivs"])
					if want := strings.Repeat(noCapability, 4) + c.bounding + "1"; got != want {
						t.Errorf("capabilities and no_new_privs of a thread of %d: %s, want %s", pid, got, want)
					}
				}
			}
			if c.reload == 0 {
				return
			}
			before := processes(t, proxy)
			lab.Eventually(t, "other workers", func() error {
				proxy.Signal(c.reload) // again: HAProxy loses one that comes while it starts
				now := processes(t, proxy)
				for pid := range before {
					if pid != proxy.Pid() && now[pid] {
						return fmt.Errorf("process %d, which is old", pid)
					}
				}
				if len(before) < 2 || len(now) < 2 {
					return fmt.Errorf("no worker: %v, then %v", before, now)
				}
				return nil
			})
			p.inFamilies(t, p.wantExact)
		})
	}
}

// TestNoNetRaw is why Pod Security restricted has no tproxy mode: each thing that it
// demands keeps NET_RAW from every process of the pod, the file capability
// notwithstanding; and the capabilities of a user namespace of one's own mean nothing in
// the pod's network namespace.
func TestNoNetRaw(t *testing.T) {
	lab.Need(t, "setcap", "unshare")
	ns := lab.NewNet(t).Pod
	exe := withFileCapability(t, dir(t, contract.ProxyUID))
	const uid, lacks = contract.ProxyUID, "IP_TRANSPARENT: setsockopt: operation not permitted: this process lacks the capability NET_RAW"
	listen := []string{exe, "listen", "--", "true"}
	for _, c := range []struct {
		name    string
		user    lab.User
		command []string
		says    string // nothing: it works
	}{
		{"baseline", lab.User{UID: uid, Bounding: []string{"net_raw"}}, listen, ""},
		{"restricted", lab.User{UID: uid, NoNewPrivs: true}, listen, lacks},
		// The program that sets no_new_privs, as the runtime does, has NET_RAW itself when it
		// executes the container's first, which therefore gains nothing; the next would.
		{"allowPrivilegeEscalation: false, the first program", lab.User{UID: uid, Bounding: []string{"net_raw"}, NoNewPrivs: true}, listen, ""},
		{"allowPrivilegeEscalation: false, the second", lab.User{UID: uid, Bounding: []string{"net_raw"}, NoNewPrivs: true}, append([]string{"env"}, listen...), "no_new_privs is set"},
		{"drop: [ALL] alone", lab.User{UID: uid}, listen, lacks},
		{"a user namespace", lab.User{UID: uid, NoNewPrivs: true}, append([]string{"unshare", "--user", "--map-root-user"}, listen...), "operation not permitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := ns.TryAs(c.user, c.command...)
			if (err == nil) != (c.says == "") || !strings.Contains(out, c.says) {
				t.Errorf("got %v, %s\nwant %q", err, out, c.says)
			}
		})
	}
}

// withFileCapability is a copy of the sidecar as it is in the image.
func withFileCapability(t *testing.T, d string) string {
	t.Helper()
	exe := filepath.Join(d, "tproxy-proxy")
	for _, args := range [][]string{{"cp", bin(t, "tproxy-proxy"), exe}, {"setcap", "cap_net_raw=p", exe}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return exe
}

// processes are a program and its workers.
func processes(t *testing.T, proc *lab.Proc) map[int]bool {
	t.Helper()
	all := map[int]bool{proc.Pid(): true}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", proc.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // its thread may have ended
		for _, pid := range strings.Fields(string(text)) {
			all[atoi(t, pid)] = true
		}
	}
	return all
}
