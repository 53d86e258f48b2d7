package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain gives the tests a cluster with the product installed on it, and
// ends the cluster unless it was up before or KEEP is set. DISTRO says whose
// clothes it wears: kubeadm (the default) or k3s. IMAGES is the folder of the
// product's images, dist/images by default.
func TestMain(m *testing.M) {
	code, err := withCluster(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(run func() int) (code int, err error) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			return 1, fmt.Errorf("needs root")
		}
		fmt.Fprintln(os.Stderr, "skipped: needs root")
		return 0, nil
	}
	distro := os.Getenv("DISTRO")
	if distro == "" {
		distro = "kubeadm"
	}
	_, notBefore := alive(lanPid)
	if os.Getenv("KEEP") != "" {
		fmt.Fprintln(os.Stderr, "export KUBECONFIG="+kubeconfig)
	} else if notBefore != nil {
		defer func() {
			if e := down(); err == nil {
				err = e
			}
		}()
	}
	if err := up(distro); err != nil {
		return 1, err
	}
	dir := os.Getenv("IMAGES")
	if dir == "" {
		dir = "../../dist/images"
	}
	archives, err := filepath.Glob(dir + "/*-" + runtime.GOARCH + ".tar")
	if err != nil {
		return 1, err
	}
	if len(archives) == 0 {
		return 1, fmt.Errorf("no images in %s", dir)
	}
	if err := load(nil, archives); err != nil {
		return 1, err
	}
	say("product's images loaded")
	if os.Getenv("BYHAND") == "" {
		if err := errors.Join(kubectl("apply", "-k", manifests("install", distro)), installed()); err != nil {
			return 1, err
		}
	} else if err := installByHand(); err != nil {
		return 1, err
	}
	say("plugin installed")
	return run(), nil
}

// await fails the test unless f succeeds in time.
func await(t *testing.T, within time.Duration, what string, f func() error) {
	t.Helper()
	if err := eventually(within, what, f); err != nil {
		t.Fatal(err)
	}
}

// onNodeRun runs a command on a node and returns what it prints.
func onNodeRun(t *testing.T, n int, args ...string) string {
	t.Helper()
	out, err := exec.Command(binDir+"/cluster", append([]string{"nx", fmt.Sprint(n)}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("on node %d: %v: %v\n%s", n, args, err, out)
	}
	return string(out)
}

// onNodeInput is onNodeRun with an input.
func onNodeInput(t *testing.T, n int, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command(binDir+"/cluster", append([]string{"nx", fmt.Sprint(n)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("on node %d: %v: %v\n%s", n, args, err, out)
	}
}

// A namespace is one test's part of the cluster; it ends with the test.
type namespace struct {
	t    *testing.T
	name string
}

func newNamespace(t *testing.T, labels ...string) *namespace {
	t.Helper()
	ns := &namespace{t, strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))}
	cluster := &namespace{t, "default"}
	await(t, time.Minute, "namespace gone", func() error { // of a test before, when it is run again
		if out, err := cluster.try("get", "namespace", ns.name, "--ignore-not-found", "--output=name"); err != nil || out != "" {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	cluster.kubectl("create", "namespace", ns.name)
	for _, l := range labels {
		cluster.kubectl("label", "namespace", ns.name, l)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ns.explain()
		}
		_, _ = cluster.try("delete", "namespace", ns.name, "--wait=false")
		_, _ = ns.try("delete", "pods", "--all", "--grace-period=1", "--wait=false")
	})
	await(t, 30*time.Second, "service account", func() error { _, err := ns.try("get", "serviceaccount", "default"); return err })
	return ns
}

// explain logs what there is to know about a test that failed.
func (ns *namespace) explain() {
	for _, args := range []string{"get pods -o wide", "describe pods", "logs --all-containers --prefix --tail=20 -l app"} {
		out, _ := ns.try(strings.Fields(args)...)
		ns.t.Logf("kubectl %s\n%s", args, out)
	}
}

// try runs kubectl in the namespace.
func (ns *namespace) try(args ...string) (string, error) {
	return ns.input("", args...)
}

func (ns *namespace) input(stdin string, args ...string) (string, error) {
	cmd := exec.Command(binDir+"/kubectl", append([]string{"--kubeconfig", kubeconfig, "-n", ns.name}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// kubectl is try, for what must work.
func (ns *namespace) kubectl(args ...string) string {
	ns.t.Helper()
	out, err := ns.try(args...)
	if err != nil {
		ns.t.Fatal(err)
	}
	return out
}

func (ns *namespace) apply(manifests ...string) {
	ns.t.Helper()
	text := strings.Join(manifests, "\n---\n")
	if _, err := ns.input(text, "apply", "-f", "-"); err != nil {
		ns.t.Fatalf("%v\n%s", err, text)
	}
}

// ready waits until pods are.
func (ns *namespace) ready(pods ...string) {
	ns.t.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=60s"}
	for _, p := range pods {
		args = append(args, "pod/"+p)
	}
	ns.kubectl(args...)
}

// addrs are a pod's or a service's addresses, IPv4 first.
func (ns *namespace) addrs(object string) [2]netip.Addr {
	ns.t.Helper()
	var o struct {
		Spec   struct{ ClusterIPs []string }
		Status struct{ PodIPs []struct{ IP string } }
	}
	if err := json.Unmarshal([]byte(ns.kubectl("get", object, "-o", "json")), &o); err != nil {
		ns.t.Fatal(err)
	}
	for _, ip := range o.Status.PodIPs {
		o.Spec.ClusterIPs = append(o.Spec.ClusterIPs, ip.IP)
	}
	var two [2]netip.Addr
	for _, text := range o.Spec.ClusterIPs {
		ip := netip.MustParseAddr(text)
		if ip.Is4() {
			two[0] = ip
		} else {
			two[1] = ip
		}
	}
	if !two[0].IsValid() || !two[1].IsValid() {
		ns.t.Fatalf("%s has the addresses %v, want both families", object, o.Spec.ClusterIPs)
	}
	return two
}
