package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// request is the input of an ADD or a CHECK.
type request struct {
	config intercept.Config // its mode is contract.ModeNone for a pod that is left alone
	result []byte           // prevResult, to pass on
	addrs  []netip.Addr     // the pod's, as prevResult has them
	note   string           // what ADD says of the node's default
}

// parse reads a verb's input. Its error is a *types.Error, whose code says whose
// fault it is.
func parse(args *skel.CmdArgs) (r request, err error) {
	var in struct {
		CNIVersion    string
		PrevResult    json.RawMessage
		RuntimeConfig map[string]json.RawMessage
	}
	if err := json.Unmarshal(args.StdinData, &in); err != nil {
		return r, types.NewError(types.ErrDecodingFailure, "read configuration: "+err.Error(), "")
	}
	if r.result, r.addrs, err = previous(in.PrevResult, in.CNIVersion); err != nil {
		return r, err
	}
	var annotations map[string]string
	if raw, ok := in.RuntimeConfig[contract.AnnotationsCapability]; ok {
		if err := json.Unmarshal(raw, &annotations); err != nil {
			return r, types.NewError(types.ErrDecodingFailure,
				fmt.Sprintf("read annotations from runtimeConfig %q: %v", contract.AnnotationsCapability, err), "")
		}
	}
	r.config, r.note, err = configure(args, annotations, r.addrs)
	return r, err
}

// pod is the pod's namespace and name, which Kubernetes' runtimes put into CNI_ARGS;
// empty where they are not there.
func pod(cniArgs string) (namespace, name string) {
	for pair := range strings.SplitSeq(cniArgs, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		}
	}
	return namespace, name
}

// configure reads the conflist entry and the annotations. Its error is a
// *types.Error with all faults. If one is in the conflist entry, which is wrong for
// every pod, the code is that of an invalid network configuration.
// note is what to log of a pod that has no mode of its own where the node has one.
func configure(args *skel.CmdArgs, annotations map[string]string, addrs []netip.Addr) (c intercept.Config, note string, err error) {
	namespace, name := pod(args.Args)
	s := settings.New()
	s.Entry(args.StdinData)
	s.Annotations(annotations)
	s.Namespace(namespace)
	c, err = s.Config(args.IfName, addrs)
	if err == nil {
		return c, defaultNote(s, namespace, name), nil
	}
	code := errAnnotation
	var faults settings.Faults
	if errors.As(err, &faults) && faults.From(settings.Conflist) {
		code = types.ErrInvalidNetworkConfig
	}
	return c, "", types.NewError(code, err.Error(), "")
}

// defaultNote is a line on a pod of Kubernetes that has no annotation mode, on a node
// with a default: one without the sidecar is cut off, and nothing else would say why.
func defaultNote(s *settings.Settings, namespace, name string) string {
	who := printable.Word(namespace + "/" + name)
	switch {
	case namespace == "" || !s.ByDefault():
		return ""
	case s.Exempted():
		return fmt.Sprintf("%s is left alone: its namespace is exempt (%s) from the node's default mode %s", who, s.Exempt(), s.DefaultMode())
	}
	return fmt.Sprintf("%s has no annotation %smode, so the node's default applies, %s: without the sidecar nobody can connect to it; annotate it with %smode: none, or exempt its namespace (%s in the conflist)",
		who, contract.AnnotationPrefix, s.DefaultMode(), contract.AnnotationPrefix, settings.ExemptKey)
}

// previous returns the result of the plugin before this one, byte for byte if it
// has the version that the runtime asks for and converted otherwise, and the pod's
// addresses in it.
func previous(raw json.RawMessage, version string) (result []byte, addrs []netip.Addr, err error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil, types.NewError(types.ErrInvalidNetworkConfig,
			"prevResult is missing: "+contract.PluginType+" is a chained plugin and must come after the one that creates the interface", "")
	}
	fail := func(err error) ([]byte, []netip.Addr, error) {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "read prevResult: "+err.Error(), "")
	}
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		return fail(err)
	}
	have, _ := object["cniVersion"].(string)
	if have == "" { // optional before 1.0.0, but the parser needs it
		have, object["cniVersion"] = version, version
	}
	text, err := json.Marshal(object)
	if err != nil {
		return fail(err)
	}
	prev, err := create.Create(have, text)
	if err != nil {
		return fail(err)
	}
	current, err := types100.NewResultFromResult(prev)
	if err != nil {
		return fail(err)
	}
	if have == version {
		return raw, podAddrs(current), nil
	}
	asked, err := prev.GetAsVersion(version)
	if err != nil {
		return fail(err)
	}
	var b bytes.Buffer
	if err := asked.PrintTo(&b); err != nil {
		return fail(err)
	}
	return b.Bytes(), podAddrs(current), nil
}

// podAddrs are the addresses of r without those on the node's side.
func podAddrs(r *types100.Result) (addrs []netip.Addr) {
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Sandbox == "" {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}
