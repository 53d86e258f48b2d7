package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A namespace is one test's part of the cluster; it ends with the test.
type namespace struct {
	t    *testing.T
	name string
}

func newNamespace(t *testing.T, labels ...string) *namespace {
	t.Helper()
	ns := &namespace{t, strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))}
	ns.awaitGone()
	cluster := &namespace{t, "default"}
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

// awaitGone waits for the end of the namespace of a test before, as when it is
// run again.
func (ns *namespace) awaitGone() {
	ns.t.Helper()
	await(ns.t, time.Minute, "namespace gone", func() error {
		if out, err := ns.try("get", "namespace", ns.name, "--ignore-not-found", "--output=name"); err != nil || out != "" {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
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

// get asks the API server for pod/NAME, service/NAME and such, which costs much
// less than to start kubectl.
func (ns *namespace) get(object string, o any) {
	ns.t.Helper()
	config, err := os.ReadFile(kubeconfig)
	if err != nil {
		ns.t.Fatal(err)
	}
	ca, err := os.ReadFile(pkiDir + "/ca.crt")
	if err != nil {
		ns.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)server: "([^"]+)".*token: (\w+)`).FindSubmatch(config)
	kind, name, _ := strings.Cut(object, "/")
	req, err := http.NewRequestWithContext(ns.t.Context(), "GET", fmt.Sprintf("%s/api/v1/namespaces/%s/%ss/%s", m[1], ns.name, kind, name), nil)
	if err != nil {
		ns.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+string(m[2]))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		ns.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(o); err != nil || resp.StatusCode != http.StatusOK {
		ns.t.Fatalf("get %s: %s: %v", object, resp.Status, err)
	}
}

// log is what a pod's container has written so far, in all its lives, as its
// node keeps it.
func (ns *namespace) log(pod, container string) string {
	ns.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("%s/node*/var/log/pods/%s_%s_*/%s/*.log", runDir, ns.name, pod, container))
	if err != nil {
		ns.t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range files {
		lines, err := os.ReadFile(f)
		if err != nil {
			ns.t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			if f := strings.SplitN(line, " ", 4); len(f) == 4 { // time, stream, whether the line is whole
				text.WriteString(f[3])
			}
		}
	}
	return text.String()
}

// addrs are a pod's or a service's addresses, IPv4 first.
func (ns *namespace) addrs(object string) [2]netip.Addr {
	ns.t.Helper()
	var o struct {
		Spec   struct{ ClusterIPs []string }
		Status struct{ PodIPs []struct{ IP string } }
	}
	ns.get(object, &o)
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
