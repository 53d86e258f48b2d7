package lab

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Conflist is the network configuration list that pods are attached through:
// an upstream interface plugin with host-local, and what is chained to it.
type Conflist struct {
	Version string   // cniVersion: 1.1.0 if empty
	Link    string   // the interface plugin: ptp if empty, or bridge
	Subnets []string // the pods' networks: PodNet4 and PodNet6 if empty
	Chained []any    // further plugins' objects
}

// CNI drives the upstream cnitool.
type CNI struct {
	t    TB
	tool string // cnitool
	path string // as in CNI_PATH
	name string // the network's
	dir  string // the configuration and host-local's leases
}

// NewCNI writes the list for cnitool, which is in dirs with the plugins. Call it
// before making the namespaces: cnitool's files on this machine are then removed
// after the namespaces are.
func NewCNI(t TB, list Conflist, dirs ...string) *CNI {
	t.Helper()
	c := &CNI{t: t, path: strings.Join(dirs, string(filepath.ListSeparator))}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, "cnitool")); err == nil {
			c.tool = path
		}
	}
	if c.tool == "" {
		t.Fatalf("no cnitool in %s", c.path)
	}
	var err error
	if c.dir, err = os.MkdirTemp("", "lab-cni-"); err != nil {
		t.Fatalf("%v", err)
	}
	c.name = filepath.Base(c.dir)
	t.Cleanup(c.forget)
	text, err := json.MarshalIndent(c.network(list), "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, "10-lab.conflist"), text, 0o644)
	}
	if err != nil {
		t.Fatalf("write the network configuration: %v", err)
	}
	return c
}

// Dir is the directory of the configuration, as a node's /etc/cni/net.d.
func (c *CNI) Dir() string { return c.dir }

// results is where libcni remembers the results of ADD for cnitool.
const results = "/var/lib/cni/results"

// forget removes c's directory and the cached results of pods that could not be
// detached. The directory of the results stays: other tests' are in it.
func (c *CNI) forget() {
	os.RemoveAll(c.dir)
	files, _ := filepath.Glob(filepath.Join(results, c.name+"-*"))
	for _, f := range files {
		os.Remove(f)
	}
}

// network returns the list as a value for JSON.
func (c *CNI) network(list Conflist) map[string]any {
	if list.Version == "" {
		list.Version = "1.1.0"
	}
	if list.Link == "" {
		list.Link = "ptp"
	}
	if list.Subnets == nil {
		list.Subnets = []string{PodNet4, PodNet6}
	}
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, s := range list.Subnets {
		all := "0.0.0.0/0"
		if strings.Contains(s, ":") {
			all = "::/0"
		}
		ranges = append(ranges, []map[string]string{{"subnet": s}})
		routes = append(routes, map[string]string{"dst": all})
	}
	link := map[string]any{
		"type": list.Link,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(c.dir, "leases"),
			"ranges": ranges, "routes": routes,
		},
	}
	if list.Link == "bridge" {
		link["bridge"], link["isGateway"] = "cni0", true
	}
	return map[string]any{
		"cniVersion": list.Version, "name": c.name,
		"plugins": append([]any{link}, list.Chained...),
	}
}

// Attachment is a pod on a node, with what a runtime passes to the plugins.
type Attachment struct {
	*CNI
	Node, Pod *NS
	Interface string // the pod's: eth0 if empty

	// Capabilities are what a runtime hands to plugins that declare them,
	// by the capability's name.
	Capabilities map[string]any

	Args string // CNI_ARGS: "K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web"
}

// Try runs a verb of cnitool: add, check, del, gc or status.
func (a Attachment) Try(verb string) (string, error) {
	args, err := json.Marshal(a.Capabilities)
	if err != nil {
		return "", err
	}
	cmd := exec.Command(a.tool, verb, a.name, a.Pod.Path())
	cmd.Env = append(os.Environ(), "CNI_PATH="+a.path, "NETCONFPATH="+a.dir, "CAP_ARGS="+string(args), "CNI_ARGS="+a.Args)
	if a.Interface != "" {
		cmd.Env = append(cmd.Env, "CNI_IFNAME="+a.Interface)
	}
	return a.Node.TryCmd(cmd)
}

// Run is Try that ends the test on an error.
func (a Attachment) Run(verb string) string {
	a.t.Helper()
	out, err := a.Try(verb)
	if err != nil {
		a.t.Fatalf("cnitool %s: %v\n%s", verb, err, out)
	}
	return out
}

// Add attaches the pod and returns its addresses without their prefix length.
// It is detached at the end of the test.
func (a Attachment) Add() []string {
	a.t.Helper()
	a.t.Cleanup(func() { _, _ = a.Try("del") })
	out := a.Run("add")
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		a.t.Fatalf("cnitool add: %v\n%s", err, out)
	}
	var addrs []string
	for _, ip := range result.IPs {
		addr, _, _ := strings.Cut(ip.Address, "/")
		addrs = append(addrs, addr)
	}
	return addrs
}
