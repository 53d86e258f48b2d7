package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A namespace is a Kubernetes namespace that is removed with its test.
type namespace struct {
	t    *testing.T
	name string
}

func newNamespace(t *testing.T, labels ...string) *namespace {
	t.Helper()
	ns := &namespace{t, strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name()))}
	ns.awaitGone()
	object := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {%s}}}", ns.name, strings.Join(labels, ", "))
	if err := api("POST", "/api/v1/namespaces", object, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ns.explain()
		}
		_ = api("DELETE", "/api/v1/namespaces/"+ns.name, "", nil)
		_ = api("DELETE", "/api/v1/namespaces/"+ns.name+"/pods?gracePeriodSeconds=1", "", nil)
	})
	await(t, time.Minute, "service account", func() error {
		return api("GET", "/api/v1/namespaces/"+ns.name+"/serviceaccounts/default", "", nil)
	})
	return ns
}

// awaitGone waits until the namespace of an earlier run of the test is gone.
func (ns *namespace) awaitGone() {
	ns.t.Helper()
	await(ns.t, 3*time.Minute, "namespace gone", func() error {
		err := api("GET", "/api/v1/namespaces/"+ns.name, "", nil)
		switch {
		case errors.Is(err, errNotFound):
			return nil
		case err == nil:
			return errors.New("still exists")
		default:
			return err
		}
	})
}

// explain logs the state of a failed test's namespace.
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

// kubectl is try that fails the test on an error.
func (ns *namespace) kubectl(args ...string) string {
	ns.t.Helper()
	out, err := ns.try(args...)
	if err != nil {
		ns.t.Fatal(err)
	}
	return out
}

// apply creates objects. `kubectl apply` would take a second.
func (ns *namespace) apply(objects ...string) {
	ns.t.Helper()
	for _, o := range objects {
		kind := regexp.MustCompile(`(?m)^apiVersion: (\S+)\nkind: (\S+)$`).FindStringSubmatch(o)
		path := map[string]string{"v1": "/api/v1", "apps/v1": "/apis/apps/v1", "batch/v1": "/apis/batch/v1"}[kind[1]]
		path += "/namespaces/" + ns.name + "/" + strings.ToLower(kind[2]) + "s?fieldValidation=Strict"
		if err := api("POST", path, o, nil); err != nil {
			ns.t.Fatalf("%v\n%s", err, o)
		}
	}
}

// ready waits until pods are.
func (ns *namespace) ready(pods ...string) {
	ns.t.Helper()
	await(ns.t, 4*time.Minute, "pods ready", func() error {
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if err := api("GET", "/api/v1/namespaces/"+ns.name+"/pods", "", &list); err != nil {
			return err
		}
		missing := map[string]bool{}
		for _, name := range pods {
			missing[name] = true
		}
		for _, p := range list.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == "Ready" && c.Status == "True" {
					delete(missing, p.Metadata.Name)
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("not ready: %v", slices.Sorted(maps.Keys(missing)))
		}
		return nil
	})
}

// get reads pod/NAME, service/NAME and such.
func (ns *namespace) get(object string, o any) {
	ns.t.Helper()
	kind, name, _ := strings.Cut(object, "/")
	if err := api("GET", "/api/v1/namespaces/"+ns.name+"/"+kind+"s/"+name, "", o); err != nil {
		ns.t.Fatal(err)
	}
}

// log returns what a pod's container has written so far, over all restarts, from the
// node's files.
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

// addrs returns the addresses of a pod or service, IPv4 first.
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
