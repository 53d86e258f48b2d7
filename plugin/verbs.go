package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// plugin answers the CNI verbs. stdout carries the protocol and nothing else.
type plugin struct{ stdout, stderr io.Writer }

func (p plugin) add(args *skel.CmdArgs) error {
	r, err := parse(args)
	if err != nil {
		return err
	}
	if r.config.Mode == contract.ModeNone {
		if err := checkNetNS(args); errors.Is(err, ownNetNS) {
			return err
		}
	} else {
		if err := checkTarget(args); err != nil {
			return err
		}
		guard, err := intercept.ApplyGuarded(args.Netns, r.config)
		if err != nil {
			return kernelError(err)
		}
		if guard.Guard != contract.GuardNFT {
			p.warn("ADD: in %s, %s", args.Netns, guard.String())
		}
		p.warnOfOthers(args, r.config)
	}
	if r.note != "" {
		fmt.Fprintf(p.stderr, contract.PluginType+": ADD: %s\n", r.note)
	}
	_, err = p.stdout.Write(r.result)
	return err
}

// warnOfOthers says on stderr, which runtimes log, who else takes the pod's
// connections. The ADD succeeds nevertheless: the other may be there on purpose, and
// without the pod nobody could look into it.
func (p plugin) warnOfOthers(args *skel.CmdArgs, c intercept.Config) {
	others, err := intercept.Others(args.Netns, c)
	if err != nil {
		p.warn("ADD: could not look for other interceptors in %s: %s", args.Netns, err.Error())
	}
	for _, o := range others {
		p.warn("ADD: in %s, %s", args.Netns, o.String()+": "+intercept.OthersMean+
			"; take the other injection out of the pod, or annotate it with "+contract.AnnotationPrefix+"mode: "+contract.ModeNone)
	}
}

// warn writes a line about a network namespace.
func (p plugin) warn(format, netns, why string) {
	fmt.Fprintf(p.stderr, contract.PluginType+": "+format+"\n", printable.Quote(netns), printable.Line(why))
}

func (p plugin) check(args *skel.CmdArgs) error {
	r, err := parse(args)
	if err != nil || r.config.Mode == contract.ModeNone {
		return err
	}
	if err := checkTarget(args); err != nil {
		return err
	}
	err = intercept.Check(args.Netns, r.config, r.addrs)
	var drift intercept.Drift
	var taken intercept.Taken
	switch {
	case err == nil:
		return nil
	case errors.As(err, &drift), errors.As(err, &taken):
		return types.NewError(errDrift, err.Error(), "")
	}
	return kernelError(err)
}

// del reads no settings: they may be wrong, or have changed since the ADD. It
// always succeeds. All that ADD made is in the pod's namespace and ends with it;
// a failure would only keep pods from being deleted, on a node without nftables
// every pod.
func (p plugin) del(args *skel.CmdArgs) error {
	if args.Netns == "" {
		return nil
	}
	err := checkNetNS(args)
	if err == nil {
		err = intercept.Remove(args.Netns, args.IfName)
	}
	var none intercept.NoNetNS
	if err != nil && !errors.Is(err, ownNetNS) && !errors.As(err, &none) {
		p.warn("DEL: could not remove everything from %s: %s", args.Netns, err.Error())
	}
	return nil
}

// status fails only where every ADD would: on a wrong conflist entry. The
// runtime then reports the node's network as not ready.
func (p plugin) status(args *skel.CmdArgs) error {
	_, _, err := configure(args, nil, nil)
	return err
}

// gc has nothing to collect: what ADD made ends with its namespace.
func (p plugin) gc(*skel.CmdArgs) error { return nil }

// ownNetNS is the plugin's own network namespace, which is the node's.
var ownNetNS = types.NewError(types.ErrInvalidNetNS, "CNI_NETNS is the plugin's own network namespace", "")

// checkNetNS fails with ownNetNS if CNI_NETNS is the plugin's own namespace, unless
// the runtime allows that by CNI_NETNS_OVERRIDE. It then sets the override, so that
// skel does not check again after the verb: skel opens the path, which blocks on a
// pipe.
func checkNetNS(args *skel.CmdArgs) error {
	override := strings.ToUpper(args.NetnsOverride)
	args.NetnsOverride = "TRUE"
	own, err := intercept.IsOwn(args.Netns)
	if own && override != "TRUE" && override != "1" {
		return ownNetNS
	}
	return err
}

// checkTarget refuses an interface and a namespace that cannot be programmed.
func checkTarget(args *skel.CmdArgs) error {
	if err := intercept.CheckInterface(args.IfName); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_IFNAME: "+err.Error(), "")
	}
	if err := checkNetNS(args); err != nil {
		return kernelError(err)
	}
	return nil
}
