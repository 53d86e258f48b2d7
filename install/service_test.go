package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// service is tproxy-install as a DaemonSet runs it.
type service struct {
	*exec.Cmd
	t    *testing.T
	log  *lab.Output
	done chan struct{}
	err  error
	url  string
}

func (n *testNode) start(verb string, args ...string) *service {
	n.t.Helper()
	return n.serve(n.command(verb, append(args, "--listen", "127.0.0.1:0")...))
}

// serve starts cmd and waits until it listens.
func (n *testNode) serve(cmd *exec.Cmd) *service {
	n.t.Helper()
	s := &service{Cmd: cmd, t: n.t, log: &lab.Output{}, done: make(chan struct{})}
	s.Stdout, s.Stderr = s.log, s.log
	must(n.t, s.Start())
	go func() { s.err = s.Wait(); close(s.done) }()
	n.t.Cleanup(func() {
		_ = s.Process.Kill()
		<-s.done
		if n.t.Failed() {
			n.t.Logf("%s (%v):\n%s", cmd, s.err, s.log)
		}
	})
	lab.Eventually(n.t, "address in the log", func() error {
		m := regexp.MustCompile(`msg=listening addr=(\S+)`).FindStringSubmatch(s.log.String())
		if m == nil {
			return errors.New(s.log.String())
		}
		s.url = "http://" + m[1]
		return nil
	})
	return s
}

func (s *service) get(path string) (int, string, error) {
	r, err := http.Get(s.url + path)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// want waits until path answers so.
func (s *service) want(path string, code int, texts ...string) {
	s.t.Helper()
	lab.Eventually(s.t, fmt.Sprintf("%s: %d %q", path, code, texts), func() error {
		got, body, err := s.get(path)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return fmt.Errorf("%q is not in %d %s", text, got, body)
			}
		}
		if got != code {
			return fmt.Errorf("%d %s", got, body)
		}
		return nil
	})
}

// stop ends it as the kubelet does and wants status 0.
func (s *service) stop() {
	s.t.Helper()
	must(s.t, s.Process.Signal(syscall.SIGTERM))
	<-s.done
	if s.err != nil {
		s.t.Errorf("ended with %v", s.err)
	}
}

func (n *testNode) wantPlugins(list ...string) {
	n.t.Helper()
	lab.Eventually(n.t, fmt.Sprintf("plugins %q", list), func() error {
		l, err := nodetest.Load(n.ConfDir)
		if err != nil {
			return err
		}
		var got []string
		for _, p := range l.Plugins {
			got = append(got, p.Network.Type)
		}
		if !slices.Equal(got, list) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// TestService is a node's life: the installer waits for the cluster's network,
// repairs what others change, leaves the plugin when it ends, and uninstall takes
// it out.
func TestService(t *testing.T) {
	n := newTestNode(t)
	s := n.start("install", "--preflight=false")
	s.want("/healthz", 200)
	s.want("/readyz", 503, "not ready: no network configuration: the cluster's network plugin has not written one yet")
	s.want("/metrics", 200, `tproxy_install_error{reason="waiting"} 1`, "tproxy_install_ready 0")

	flannel := nodetest.Configs(t, "10-flannel.conflist")["10-flannel.conflist"]
	// Not atomically, as k3s does.
	f, err := os.Create(filepath.Join(n.ConfDir, "10-flannel.conflist"))
	must(t, err)
	_, err = f.Write(flannel[:100])
	must(t, err)
	s.want("/readyz", 503, "10-flannel.conflist is invalid", "waiting until it is completely written")
	_, err = f.Write(flannel[100:])
	must(t, err)
	must(t, f.Close())
	n.Configs["10-flannel.conflist"] = string(flannel)
	base := []string{"flannel", "portmap", "bandwidth"}
	ours := append(slices.Clone(base), contract.PluginType)
	n.wantPlugins(ours...)
	s.want("/readyz", 200, "entry in "+filepath.Join(n.ConfDir, "10-flannel.conflist"), "plugin ")

	n.WriteConf("10-flannel.conflist", string(flannel)) // k3s starts again
	n.wantPlugins(ours...)
	binary := filepath.Join(n.BinDir, contract.PluginType)
	must(t, os.Remove(binary))
	lab.Eventually(t, "binary", func() error { _, err := os.Stat(binary); return err })
	s.want("/metrics", 200, `tproxy_install_patches_total{reason="entry missing"} 2`,
		`tproxy_install_patches_total{reason="binary missing"} 2`, "tproxy_install_ready 1",
		`tproxy_install_error{reason="waiting"} 0`, "tproxy_install_build_info{version=")

	// The directory itself is made anew.
	must(t, os.Rename(n.ConfDir, n.ConfDir+".old"))
	must(t, os.Mkdir(n.ConfDir, 0o755))
	n.WriteConf("10-flannel.conflist", string(flannel))
	n.wantPlugins(ours...)

	lab.Eventually(t, "the end of the attempt", func() error {
		if _, err := os.Lstat(filepath.Join(n.ConfDir, disk.LockName)); err == nil {
			return errors.New("it still has the lock")
		}
		return nil
	})

	// A restart, an upgrade, a reboot.
	before := [2]map[string]string{nodetest.Tree(t, n.ConfDir), nodetest.Tree(t, n.BinDir)}
	s.stop()
	if diff := cmp.Diff(before, [2]map[string]string{nodetest.Tree(t, n.ConfDir), nodetest.Tree(t, n.BinDir)}); diff != "" {
		t.Errorf("SIGTERM changed the node:\n%s", diff)
	}

	u := n.start("uninstall", "--cni-cache-dir", t.TempDir())
	u.want("/readyz", 200, "uninstalled: no configuration names the plugin", binary+" stays, and no cached configuration names it; uninstall --remove-binary takes it out")
	n.wantPlugins(base...)
	must(t, n.CheckProgram())
	// An old installer, just before its end, installs once more.
	_, err = n.Installer().Install(t.Context())
	must(t, err)
	n.wantPlugins(base...)
	u.stop()
	n.Started()
	u = n.start("uninstall", "--cni-cache-dir", t.TempDir(), "--remove-binary")
	u.want("/readyz", 200, "uninstalled, nothing is left")
	if left := n.Programs(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	u.stop()
}

// TestSurge: two installers with different defaults run at the same time for a
// while. The invariants hold, and the node ends up with the entry of the one that
// stays.
func TestSurge(t *testing.T) {
	n := newTestNode(t, "10-flannel.conflist")
	end := n.Observe()
	old := n.start("install", "--preflight=false", "--proxy-port", "6000")
	old.want("/readyz", 200)
	younger := n.start("install", "--preflight=false", "--proxy-port", "7000")
	younger.want("/metrics", 200, `tproxy_install_patches_total{reason="entry changed"}`)
	old.stop()
	end()
	lab.Eventually(t, "the younger one's entry", func() error {
		data, err := os.ReadFile(filepath.Join(n.ConfDir, "10-flannel.conflist"))
		if err == nil && !strings.Contains(string(data), `"proxyPort":7000`) {
			err = errors.New(string(data))
		}
		return err
	})
	younger.want("/readyz", 200)
	younger.stop()
}
