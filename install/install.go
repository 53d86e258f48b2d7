package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/health"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/repair"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// newNode is the node of install and uninstall. The plugin to copy is beside
// this program.
func newNode(w world, c config) (*node.Node, error) {
	_, dir, err := self()
	if err != nil {
		return nil, err
	}
	n := &node.Node{
		Disk: disk.Disk{Before: w.before}, ConfDir: c.confDir, CacheDir: c.cacheDir, Network: c.network, MorePluginDirs: c.morePluginDirs,
		Binary: node.Binary{Source: filepath.Join(dir, contract.PluginType), Dir: c.binDir},
	}
	n.Entry, err = settings.NewEntry(c.settings)
	return n, err
}

// ofNetwork names the network behind its list's file, if it was asked for.
func ofNetwork(name string) string {
	if name == "" {
		return ""
	}
	return " of network " + printable.Word(name)
}

// install keeps the plugin on the node until ctx ends, and then leaves it there:
// this process ends for a restart, an upgrade or a reboot, after which pods are
// started as before. Uninstall is a command of its own.
func install(ctx context.Context, log *slog.Logger, w world, c config) error {
	n, err := newNode(w, c)
	if err != nil {
		return err
	}
	s := health.New(c.mode(), c.packetGuard())
	loads := several{flag: c.maxConfNum, socket: c.criSocket}
	work := func(ctx context.Context) (node.Outcome, string, error) {
		n.Several = loads.now(ctx)
		o, err := n.Install(ctx)
		return o, fmt.Sprintf("entry in %s%s, plugin %s in %s",
			printable.Word(filepath.Join(c.confDir, o.List)), ofNetwork(c.network), version.String(), n.BinaryPath()), err
	}
	if c.once {
		return attempt(ctx, log, s, work)
	}
	log.Info("starting", "version", version.String(), "entry", string(n.Entry), "conf_dir", c.confDir, "bin_dir", c.binDir)
	if c.mode() != contract.ModeNone {
		warnOfDefault(log, c.settings)
	}
	k := newKeeper(log, w, n, s, work)
	tasks := []func(context.Context) error{
		func(ctx context.Context) error { return s.Serve(ctx, log, c.listen) },
		k.watch.Run,
		k.run,
	}
	if c.preflight {
		tasks = append(tasks, func(ctx context.Context) error { return checkKernel(ctx, log, s, c.packetGuard()) })
	}
	if c.repair {
		tasks = append(tasks, func(ctx context.Context) error {
			return repair.Run(ctx, log, repair.Options{
				Socket: c.criSocket, Entry: n.Entry, NodeNetNS: ownNetNS, Every: c.repairEvery, Now: k.patched,
				Done: s.Pod, Looked: s.Pods,
			})
		})
	}
	if err := supervise(ctx, tasks...); err != nil {
		return err
	}
	log.Info("shutting down; plugin left installed")
	return nil
}

// warnOfDefault says what a default mode means for pods that know nothing of it.
func warnOfDefault(log *slog.Logger, flags map[string]string) {
	s := settings.New()
	s.Flags(flags)
	log.Warn("the default mode applies to every new pod without an annotation, outside the exempt namespaces: without the sidecar nobody can connect to it",
		"mode", flags["mode"], "exempt_namespaces", s.Exempt())
}
