package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	apiPort    = "6443"
	pkiDir     = runDir + "/pki"
	serviceNet = "10.96.0.0/16,fd00:96::/112"
	podNet     = "10.244.0.0/16,fd00:244::/32"
)

// daemons lists what runs on a node; the first also has the control plane.
func daemons(n int) [][]string {
	conf := func(name string) string { return filepath.Join(nodeDir(n), name) }
	node := fmt.Sprintf("node%d", n)
	list := [][]string{
		{"base-cni"},
		{"containerd", "--config", conf("containerd.toml")},
		{
			"kubelet", "--config", conf("kubelet.yaml"), "--kubeconfig", pkiDir + "/" + node + ".conf", "--hostname-override", node,
			"--node-ip", nodeIP(n) + "," + nodeIP6(n),
		},
		{"kube-proxy", "--config", conf("kube-proxy.yaml")},
	}
	if n != 1 {
		return list
	}
	controllers, scheduler := pkiDir+"/controller-manager.conf", pkiDir+"/scheduler.conf"
	return append(list, []string{"etcd", "--data-dir", runDir + "/etcd", "--log-level", "warn", "--unsafe-no-fsync"},
		[]string{
			"kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379", "--secure-port", apiPort, "--advertise-address", nodeIP(1),
			"--service-cluster-ip-range", serviceNet, "--allow-privileged", "--authorization-mode", "Node,RBAC",
			"--enable-admission-plugins", "NodeRestriction", "--token-auth-file", pkiDir + "/tokens.csv",
			"--tls-cert-file", pkiDir + "/api.crt", "--tls-private-key-file", pkiDir + "/api.key", "--client-ca-file", pkiDir + "/ca.crt",
			"--kubelet-client-certificate", pkiDir + "/api.crt", "--kubelet-client-key", pkiDir + "/api.key",
			"--kubelet-preferred-address-types", "InternalIP", "--service-account-issuer", "https://kubernetes.default.svc",
			"--service-account-key-file", pkiDir + "/api.key", "--service-account-signing-key-file", pkiDir + "/api.key",
		},
		[]string{
			"kube-controller-manager", "--kubeconfig", controllers, "--authentication-kubeconfig", controllers, "--authorization-kubeconfig", controllers,
			"--root-ca-file", pkiDir + "/ca.crt", "--service-account-private-key-file", pkiDir + "/api.key",
			"--use-service-account-credentials", "--leader-elect=false",
		},
		[]string{
			"kube-scheduler", "--kubeconfig", scheduler, "--authentication-kubeconfig", scheduler, "--authorization-kubeconfig", scheduler,
			"--leader-elect=false",
		},
	)
}

// configure writes the files that the daemons are told to read.
func configure(n int) error {
	d, err := theDistro()
	if err != nil {
		return err
	}
	fill := strings.NewReplacer("@bin@", binDir, "@confDir@", d.confDir, "@binDir@", d.binDir, "@containerd@", d.containerd, "@pki@", pkiDir,
		"@podNet@", podNet, "@node@", fmt.Sprintf("node%d", n))
	for name, text := range map[string]string{
		"containerd.toml": containerdConf, "kubelet.yaml": kubeletConf, "kube-proxy.yaml": proxyConf,
	} {
		if err := os.WriteFile(filepath.Join(nodeDir(n), name), []byte(fill.Replace(text)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const containerdConf = `version = 3
root = '/var/lib/containerd'
state = '@containerd@'

[grpc]
  address = '@containerd@/containerd.sock'

[debug]
  level = 'debug'  # which tells of both ends of a pod's network set-up

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'test/box:1'

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true  # a machine without CAP_SYS_RESOURCE cannot lower it

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = '@bin@/runc'

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['@binDir@']
  conf_dir = '@confDir@'
`

const kubeletConf = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://@containerd@/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: @pki@/ca.crt}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]  # no server there: pods find each other by address
volumePluginDir: /var/lib/kubelet/plugins/volume
imageGCHighThresholdPercent: 100  # there is no registry to pull a removed image from
maxPods: 250
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%, imagefs.inodesFree: 1%}
# for pods that are set up without the plugin, by an init container
allowedUnsafeSysctls: [net.ipv4.tcp_fwmark_accept, net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect, net.ipv6.ip_nonlocal_bind]
`

const proxyConf = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: @pki@/kube-proxy.conf}
clusterCIDR: @podNet@
hostnameOverride: @node@
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}  # the first namespace's to set
`
