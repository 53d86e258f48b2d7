package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/overview"
	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/install/state"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// runtimeTimeout is how long the runtime may take to answer all that status asks.
const runtimeTimeout = 20 * time.Second

// showStatus prints the report on this node. Its error is the exit status: 1 for a
// fault, 3 where something is not known.
func showStatus(ctx context.Context, _ *slog.Logger, w world, c config) error {
	c.findPlaces()
	f := overview.Facts{Node: nodeName(), Installer: version.String(), Socket: c.criSocket}
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		f.Kernel = unix.ByteSliceToString(uname.Release[:])
	}
	f.Sight = node.Look(ctx, c.confDir, c.binDir, c.network)
	if path, _, err := self(); err != nil {
		f.KernelErr = err
	} else {
		f.Kernels, f.KernelErr = preflight.Ask(ctx, path, "preflight")
	}
	if c.criSocket != "" {
		f.Pods, f.RuntimeErr = findPods(ctx, c.criSocket, f.Sight.Entry)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r := overview.New(f)
	show := func() error { return r.Print(w.stdout, w.getenv) }
	if c.json {
		show = func() error { return r.JSON(w.stdout) }
	}
	if err := show(); err != nil {
		return err
	}
	if r.Summary.ExitStatus != 0 {
		return status(r.Summary.ExitStatus)
	}
	return nil
}

// nodeName is the host's name, which is the node's unless the kubelet was given
// another.
func nodeName() string {
	name, _ := os.Hostname()
	return name
}

// findPods looks at the pods that ask. Without an entry on the node they are those
// with an annotation.
func findPods(ctx context.Context, socket string, entry []byte) ([]overview.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	if _, err := os.Stat(socket); err != nil { // says more than the error of a dial
		return nil, err
	}
	runtime, err := pods.Dial(socket)
	if err != nil {
		return nil, err
	}
	defer runtime.Close()
	list, err := runtime.ListAll(ctx)
	if err != nil {
		return nil, err
	}
	if entry == nil {
		entry = []byte("{}")
	}
	looker := state.Looker{Runtime: runtime, Entry: entry, NodeNetNS: ownNetNS}
	var all []overview.Pod
	for _, p := range list {
		one := overview.Pod{Pod: p, Finding: looker.Look(ctx, p)}
		if one.Finding.State == state.Intercepted {
			// Without these less is known of the pod, and it is no fault.
			one.Containers, _ = runtime.Containers(ctx, p.ID)
			if guard, err := intercept.Guard(one.Finding.Path, one.Finding.Config.Interface); err == nil {
				one.Guard = guard
			}
			if counts, err := intercept.Counters(one.Finding.Path); err == nil {
				if n, ok := counts["redirected"]; ok {
					one.Redirected = &n
				}
			}
		}
		all = append(all, one)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return all, fmt.Errorf("it did not answer within %v", runtimeTimeout)
	}
	return all, nil
}
