package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// facts are those that are not in the pod's namespace: what the flags, the runtime and
// the node's files say.
func (c config) facts(ctx context.Context) (explain.Facts, error) {
	f := explain.Facts{Client: c.explain.client, Port: uint16(c.explain.port), NetNS: c.explain.netns}
	s := settings.New()
	if c.explain.name != "" {
		return f, c.podFacts(ctx, &f, s)
	}
	if _, given := c.settings["packet-guard"]; !given {
		// What the pod asks for is not known: the guard in force is shown, not judged.
		s.Flags(map[string]string{"packet-guard": contract.PacketGuardBestEffort})
	}
	s.Flags(c.settings)
	settle(&f, s, c.iface)
	f.Source = "--mode " + c.mode()
	return f, nil
}

// settle reads the settings.
func settle(f *explain.Facts, s *settings.Settings, iface string) {
	var err error
	if f.Config, err = s.Config(iface, f.Addrs); err != nil {
		f.Invalid = err.Error()
	}
}

// podFacts asks the runtime. Its error says that it does not answer, or that the pod is
// not on this node or has ended.
func (c config) podFacts(ctx context.Context, f *explain.Facts, s *settings.Settings) error {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	c.findPlaces()
	f.Node = nodeName()
	if c.criSocket == "" {
		return errors.New("no container runtime's socket found: give --cri-socket, or --netns in place of the pod's name")
	}
	if _, err := os.Stat(c.criSocket); err != nil { // says more than the error of a dial
		return err
	}
	runtime, err := pods.Dial(c.criSocket)
	if err != nil {
		return err
	}
	defer runtime.Close()
	pod, err := runtime.Find(ctx, c.explain.namespace, c.explain.name)
	if err != nil {
		return err
	}
	if !pod.Ready {
		return fmt.Errorf("pod %s has ended, or its sandbox is not ready", pod)
	}
	box, err := runtime.Sandbox(ctx, pod.ID)
	if err != nil {
		return err
	}
	f.Namespace, f.Name, f.Created = pod.Namespace, pod.Name, pod.Created
	f.Addrs, f.HostNetwork, f.Stack = box.Addrs, box.HostNetwork, box.Stack
	entry := c.nodeFacts(ctx, f, s)
	s.Annotations(pod.Annotations)
	s.Namespace(pod.Namespace)
	settle(f, s, pods.Interface)
	f.ByDefault = !state.Annotated(pod.Annotations)
	setSource(f, s, pod.Annotations)
	if f.HostNetwork {
		f.NetNS = ownNetNS
		return nil
	}
	if f.NetNS, err = box.NetNS(ownNetNS); err != nil {
		return err
	}
	if f.Stack == "" && f.Invalid == "" {
		if err := asMade(f, entry, pod.Annotations); err != nil {
			return err
		}
	}
	containers, err := runtime.Containers(ctx, pod.ID)
	if err == nil {
		f.Sidecar = sidecarOf(containers, f.Config.ProxyUID)
	} else {
		f.Unknown = append(f.Unknown, "containers of the pod: "+err.Error())
	}
	return nil
}

// setSource says where the mode comes from.
func setSource(f *explain.Facts, s *settings.Settings, annotations map[string]string) {
	const key = contract.AnnotationPrefix + "mode"
	if text, ok := annotations[key]; ok {
		f.Source = "annotation mode=" + text
	} else if s.Exempted() {
		f.Source = "no annotation " + key + "; the namespace is exempt from the node's default mode " + string(s.DefaultMode())
	} else if f.Asks() {
		f.Source = "mode " + string(f.Config.Mode) + " by the node's default, no annotation"
	} else {
		f.Source = "no annotation " + key
	}
}

// nodeFacts are the plugin's entry, which has the node's defaults, and its version.
func (c config) nodeFacts(ctx context.Context, f *explain.Facts, s *settings.Settings) (entry []byte) {
	if c.confDir == "" {
		return nil
	}
	sight := node.Look(ctx, c.confDir, c.binDir, c.network)
	f.Plugin = sight.Version
	if sight.Entry == nil {
		f.Entry.Looked = sight.List != ""
		return nil
	}
	s.Entry(sight.Entry)
	f.Entry = explain.Entry{Looked: true, File: sight.List}
	if info, err := os.Stat(filepath.Join(c.confDir, sight.List)); err == nil {
		f.Entry.Changed = info.ModTime()
	}
	return sight.Entry
}

// asMade gives the facts the settings of the time when the pod was made, where its rules
// say them: the node's defaults may have changed, and its sidecar has not. status and
// repair look at it in the same way.
func asMade(f *explain.Facts, entry []byte, annotations map[string]string) error {
	if entry == nil {
		entry = []byte("{}")
	}
	looker := state.Looker{Entry: entry}
	made, ok, err := looker.Made(f.NetNS, f.Namespace, annotations, f.Addrs)
	if !ok || err != nil {
		return err
	}
	if made.Mode != f.Config.Mode {
		f.Source = "mode " + string(made.Mode) + " by the pod's rules; the node's default is another now"
	}
	f.Config = made
	return nil
}

// sidecarOf is the container of the manifests' name; that of another proxy is known by
// its user.
func sidecarOf(containers []pods.Container, uid uint32) *explain.Container {
	c, found := pods.OfUser(containers, uid)
	if i := slices.IndexFunc(containers, func(c pods.Container) bool { return c.Name == inject.Container }); i >= 0 {
		c, found = containers[i], true
	}
	return &explain.Container{Found: found, Name: c.Name, Running: c.Running, Restarts: c.Attempt}
}
