package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// A distro is where a distribution of Kubernetes keeps its CNI files, and how its
// network plugin installs itself there.
type distro struct {
	name            string
	confDir, binDir string
	containerd      string // the folder of its socket

	list string // the name of the network's list
	text string // its content; @n@ is the node's number

	// inPlace: the conflist is truncated and written, as k3s does, so that a
	// reader may see half of it; otherwise it is renamed into place.
	inPlace bool
}

var distros = map[string]distro{
	// As kind's network, kindnet, writes it.
	"kubeadm": {
		name:    "kubeadm",
		confDir: "/etc/cni/net.d", binDir: "/opt/cni/bin", containerd: "/run/containerd",
		list: "10-kindnet.conflist",
		text: `
{
	"cniVersion": "0.3.1",
	"name": "kindnet",
	"plugins": [
	{
		"type": "ptp",
		"ipMasq": false,
		"ipam": {
			"type": "host-local",
			"dataDir": "/run/cni-ipam-state",
			"routes": [
				{ "dst": "0.0.0.0/0" },
				{ "dst": "::/0" }
			],
			"ranges": [
				[ { "subnet": "10.244.@n@.0/24" } ],
				[ { "subnet": "fd00:244:@n@::/64" } ]
			]
		}
		,
		"mtu": 1500
		
	},
	{
		"type": "portmap",
		"capabilities": {
			"portMappings": true
		}
	}
	]
}
`,
	},
	// As k3s writes it for its flannel.
	"k3s": {
		name:    "k3s",
		confDir: "/var/lib/rancher/k3s/agent/etc/cni/net.d", binDir: "/var/lib/rancher/k3s/data/cni", containerd: "/run/k3s/containerd",
		list: "10-flannel.conflist", inPlace: true,
		text: `{
  "name":"cbr0",
  "cniVersion":"1.0.0",
  "plugins":[
    {
      "type":"flannel",
      "delegate":{
        "hairpinMode":true,
        "forceAddress":true,
        "isDefaultGateway":true
      }
    },
    {
      "type":"portmap",
      "capabilities":{
        "portMappings":true
      }
    },
    {
      "type":"bandwidth",
      "capabilities":{
        "bandwidth":true
      }
    }
  ]
}
`,
	},
}

// on is the list as node n has it.
func (d distro) on(n int) string { return strings.ReplaceAll(d.text, "@n@", fmt.Sprint(n)) }

// theDistro is the one that the running cluster was started with.
func theDistro() (distro, error) {
	name, err := os.ReadFile(filepath.Join(runDir, "distro"))
	return distros[string(name)], err
}

// install gives the node its CNI plugins, as links, which is how k3s has them.
func (d distro) install() error {
	for _, dir := range []string{d.confDir, d.binDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bridge", "ptp", "loopback", "host-local", "portmap", "bandwidth", "flannel"} {
		if err := link(filepath.Join(binDir, name), filepath.Join(d.binDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// baseCNI is the daemon of the node's network: it writes its conflist at each start,
// over any edits.
func baseCNI() error {
	d, err := theDistro()
	if err != nil {
		return err
	}
	path := filepath.Join(d.confDir, d.list)
	text := []byte(d.on(nodeNumber()))
	if d.inPlace {
		err = os.WriteFile(path, text, 0o600)
	} else if err = os.WriteFile(path+".temp", text, 0o644); err == nil {
		err = os.Rename(path+".temp", path)
	}
	if err != nil {
		return err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return nil
}

// flannel stands for the plugin of that name: it makes a bridge plugin's
// configuration from its own and the node's subnets, and becomes that plugin.
func flannel() error {
	var conf struct {
		CNIVersion string         `json:"cniVersion"`
		Name       string         `json:"name"`
		Delegate   map[string]any `json:"delegate"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		return err
	}
	n := nodeNumber()
	bridge := map[string]any{"cniVersion": conf.CNIVersion, "name": conf.Name, "type": "bridge", "bridge": "cni0", "ipam": map[string]any{
		"type": "host-local",
		"ranges": [][]map[string]string{
			{{"subnet": fmt.Sprintf("10.244.%d.0/24", n)}},
			{{"subnet": fmt.Sprintf("fd00:244:%d::/64", n)}},
		},
		"routes": []map[string]string{{"dst": "10.244.0.0/16"}, {"dst": "fd00:244::/32"}},
	}}
	for k, v := range conf.Delegate {
		bridge[k] = v
	}
	text, err := json.Marshal(bridge)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(binDir, "bridge"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), os.Stdout, os.Stderr
	return cmd.Run()
}
