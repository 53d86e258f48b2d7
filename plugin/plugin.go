package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	cnins "github.com/containernetworking/cni/pkg/ns"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// Codes of our own errors; the specification leaves 100 and up to plugins.
// Besides these there are its own 6 (input is not what CNI says), 7 (our
// conflist object is wrong), 11 (the kernel has no room now, try again) and
// libcni's 8 (there is no such network namespace).
const (
	errAnnotation uint = 100 // an annotation of the pod is wrong; nothing was changed
	errKernel     uint = 101 // the kernel refused a step, which the message names
	errDrift      uint = 102 // CHECK: the pod is not as ADD programs it
)

// plugin answers the CNI verbs. stdout is the protocol's.
type plugin struct{ stdout, stderr io.Writer }

func (p plugin) add(args *skel.CmdArgs) error {
	r, err := parse(args)
	if err != nil {
		return err
	}
	if r.config.Mode != contract.ModeNone {
		if err := otherNetNS(args); err != nil {
			return err
		}
		if err := redirect.Apply(args.Netns, r.config); err != nil {
			return kernelError(err)
		}
	}
	_, err = p.stdout.Write(r.result)
	return err
}

func (p plugin) check(args *skel.CmdArgs) error {
	r, err := parse(args)
	if err != nil || r.config.Mode == contract.ModeNone {
		return err
	}
	err = redirect.Check(args.Netns, r.config, r.addrs)
	var drift redirect.Drift
	switch {
	case err == nil:
		return nil
	case errors.As(err, &drift):
		return types.NewError(errDrift, drift.Error(), "")
	}
	return kernelError(err)
}

// del reads no settings: they may be wrong, or not those of the ADD any more.
// It always succeeds. All that ADD made is in the pod's namespace and ends with
// it, so that to fail would only keep a pod from being deleted: on a node
// without nftables even every pod.
func (p plugin) del(args *skel.CmdArgs) error {
	if args.Netns == "" || otherNetNS(args) != nil {
		return nil
	}
	if err := redirect.Remove(args.Netns, args.IfName); err != nil {
		fmt.Fprintf(p.stderr, "%s: DEL leaves something in %s: %v\n", contract.PluginType, args.Netns, err)
	}
	return nil
}

// status fails only where every ADD would: on a wrong conflist object. The
// runtime then takes no new pods for the node.
func (p plugin) status(args *skel.CmdArgs) error {
	_, err := configure(args, nil, nil)
	return err
}

// gc has nothing to collect: nothing of ours outlives its namespace.
func (p plugin) gc(*skel.CmdArgs) error { return nil }

// otherNetNS refuses the plugin's own namespace, which is the node's. skel
// does so too, but only after the verb.
func otherNetNS(args *skel.CmdArgs) error {
	if o := strings.ToUpper(args.NetnsOverride); o == "TRUE" || o == "1" {
		return nil
	}
	own, err := cnins.CheckNetNS(args.Netns)
	if err != nil {
		return err
	}
	if own {
		return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the plugin's own network namespace", "")
	}
	return nil
}

// transient are kernel errors that mean: not now.
var transient = []error{unix.EAGAIN, unix.EBUSY, unix.EINTR, unix.ENOBUFS, unix.ENOMEM}

func kernelError(err error) error {
	code := errKernel
	var gone ns.NSPathNotExistErr
	var notNS ns.NSPathNotNSErr
	if errors.As(err, &gone) || errors.As(err, &notNS) {
		code = types.ErrInvalidNetNS
	}
	for _, t := range transient {
		if errors.Is(err, t) {
			code = types.ErrTryAgainLater
		}
	}
	return types.NewError(code, oneLine(err), "")
}

// oneLine shows joined errors in a message of one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
