{{/* The node's directories, by distribution: those of k8s/install and k8s/repair. */}}
{{- define "tproxy-cni.directories" -}}
kubeadm: &cni
  conf: /etc/cni/net.d
  bin: /opt/cni/bin
  cri: /run/containerd
kind: *cni
eks: *cni
aks: *cni
talos: *cni
bottlerocket: *cni
rke2:
  conf: /etc/cni/net.d
  bin: /opt/cni/bin
  cri: /run/k3s/containerd
k0s:
  conf: /etc/cni/net.d
  bin: /opt/cni/bin
  cri: /run/k0s
openshift:
  conf: /etc/kubernetes/cni/net.d
  bin: /var/lib/cni/bin
  cri: /run/crio
  socket: crio.sock
k3s: &k3s
  conf: /var/lib/rancher/k3s/agent/etc/cni/net.d
  bin: /var/lib/rancher/k3s/data/cni
  cri: /run/k3s/containerd
k3d: *k3s
microk8s:
  conf: /var/snap/microk8s/current/args/cni-network
  bin: /var/snap/microk8s/current/opt/cni/bin
  cri: /var/snap/microk8s/common/run
  holds: /var/snap/microk8s # the link current, which a refresh moves
  hides: /var/snap/microk8s/common # the runtime's socket and data, and the kubelet's
gke:
  conf: /etc/cni/net.d
  bin: /home/kubernetes/bin
  cri: /run/containerd
{{- end }}
