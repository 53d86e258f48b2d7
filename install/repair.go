package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// podInterface is what the kubelet's runtimes call a pod's first interface.
const podInterface = "eth0"

// mostFromRuntime is the kubelet's limit of an answer, and the runtimes' own;
// gRPC's 4 MiB are too little for a list of many pods with large annotations.
const mostFromRuntime = 16 << 20

// repairer programs pods that ask for it by annotation and were started while
// the plugin was not in the chain.
type repairer struct {
	runtime cri.RuntimeServiceClient
	entry   []byte // our object in the conflist, which has the node's defaults
	log     *slog.Logger
	status  *status

	// seen are the sandboxes that need no more looking at, with "", because
	// they are as ADD makes them or a pod's settings, which never change, are
	// wrong; and those whose repair failed, with the error that was logged.
	seen map[string]string
}

// repairLoop looks for such pods at start, after each patch, because pods may
// have been started just before it, and every recheck.
func repairLoop(ctx context.Context, log *slog.Logger, s *status, c config, entry []byte, patched <-chan struct{}) {
	conn, err := grpc.NewClient("unix://"+c.criSocket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostFromRuntime)))
	if err != nil {
		log.Error("repair", "err", err)
		return
	}
	defer conn.Close()
	r := &repairer{cri.NewRuntimeServiceClient(conn), entry, log, s, map[string]string{}}
	said := ""
	for ctx.Err() == nil {
		err := r.run(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			log.Error("repair: cannot ask the runtime for its pods", "socket", c.criSocket, "err", err)
		}
		if err == nil {
			said = ""
		}
		wait(ctx, patched, recheck)
	}
}

// run looks at every pod once.
func (r *repairer) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	list, err := r.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: ready}})
	if err != nil {
		return err
	}
	now := map[string]string{}
	for _, p := range list.GetItems() {
		before, known := r.seen[p.GetId()]
		if !asks(p.GetAnnotations()) {
			continue
		}
		if known && before == "" {
			now[p.GetId()] = ""
			continue
		}
		if ctx.Err() == nil {
			now[p.GetId()] = r.one(ctx, p, before)
		}
	}
	r.seen = now // forgets those that are gone
	return nil
}

// one looks at a pod and returns what to keep of it in seen.
func (r *repairer) one(ctx context.Context, p *cri.PodSandbox, before string) string {
	log := r.log.With("pod", p.GetMetadata().GetNamespace()+"/"+p.GetMetadata().GetName(), "sandbox", p.GetId())
	drift, err := r.repair(ctx, p)
	switch {
	case err == nil && drift != nil:
		r.status.repaired.WithLabelValues("repaired").Inc()
		log.Info("repaired a pod that had started without the plugin", "drift", drift.Error())
		return ""
	case err == nil:
		return ""
	}
	if err.Error() != before {
		r.status.repaired.WithLabelValues("failed").Inc()
		log.Error("repair", "err", err)
	}
	var wrong *settings.Fault
	if errors.As(err, &wrong) {
		return ""
	}
	return err.Error()
}

// asks tells whether a pod has an annotation of ours. A node's default mode is
// for pods to come: one that runs without a sidecar is not touched.
func asks(annotations map[string]string) bool {
	for key := range annotations {
		if strings.HasPrefix(key, contract.AnnotationPrefix) {
			return true
		}
	}
	return false
}

// repair makes the pod what ADD would have made it, and says what was not so,
// nil for nothing. Connections that exist go on: only new ones are intercepted.
func (r *repairer) repair(ctx context.Context, p *cri.PodSandbox) (redirect.Drift, error) {
	answer, err := r.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.GetId(), Verbose: true})
	if err != nil {
		return nil, err
	}
	if answer.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE {
		return nil, nil
	}
	addrs := podAddrs(answer.GetStatus().GetNetwork())
	s := settings.New()
	s.Entry(r.entry)
	s.Annotations(p.GetAnnotations())
	conf, err := s.Config(podInterface, addrs)
	if err != nil || conf.Mode == contract.ModeNone {
		return nil, err
	}
	path, err := netNSPath(answer.GetInfo())
	if err != nil {
		return nil, err
	}
	err = redirect.Check(path, conf, addrs)
	var drift redirect.Drift
	if !errors.As(err, &drift) {
		return nil, err
	}
	if err := redirect.Apply(path, conf); err != nil {
		return nil, err
	}
	return drift, redirect.Check(path, conf, addrs)
}

func podAddrs(n *cri.PodSandboxNetworkStatus) (addrs []netip.Addr) {
	texts := []string{n.GetIp()}
	for _, ip := range n.GetAdditionalIps() {
		texts = append(texts, ip.GetIp())
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// netNSPath finds the network namespace in what a verbose caller is told of a
// sandbox, for which CRI itself has no word. Both runtimes put the OCI
// specification into the same place: containerd (sbserver's SandboxInfo) among
// much else, CRI-O (server/sandbox_status.go, createSandboxInfo) beside image
// and pid, or alone where the pod has no infra container.
func netNSPath(info map[string]string) (string, error) {
	if info["info"] == "" {
		return "", errors.New("the runtime has no info of the sandbox")
	}
	var verbose struct {
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			}
		}
	}
	if err := json.Unmarshal([]byte(info["info"]), &verbose); err != nil {
		return "", fmt.Errorf("read the runtime's info of the sandbox: %w", err)
	}
	for _, ns := range verbose.RuntimeSpec.Linux.Namespaces {
		if ns.Type != "network" || ns.Path == "" {
			continue
		}
		path := ns.Path
		if _, err := os.Stat(path); err != nil {
			// /var/run is a link to /run on the node, which our image lacks.
			path = strings.TrimPrefix(path, "/var")
		}
		return path, notOurs(path)
	}
	return "", errors.New("the runtime's info of the sandbox names no network namespace")
}

// notOurs keeps the node's own network out of harm's way.
func notOurs(path string) error {
	theirs, err := os.Stat(path)
	if err != nil {
		return err
	}
	ours, err := os.Stat(ownNetNS)
	if err == nil && os.SameFile(theirs, ours) {
		err = fmt.Errorf("%s is the node's own network namespace", path)
	}
	return err
}
