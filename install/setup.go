package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// ownNetNS is the pod's, for an init container.
const ownNetNS = "/proc/self/ns/net"

// setup programs the pod that this process is in. An init container needs
// CAP_NET_ADMIN for it, and sysctls that are right already: a container's
// /proc/sys is read-only unless it is privileged.
func setup(_ context.Context, log *slog.Logger, _ world, c config) error {
	s := settings.New()
	s.Flags(c.settings)
	conf, err := s.Config(c.iface, nil)
	if err != nil {
		return err
	}
	wrong, err := redirect.WrongSysctls(ownNetNS)
	if err != nil {
		return err
	}
	if err := writable(wrong); err != nil {
		return err
	}
	if err := redirect.Apply(ownNetNS, conf); err != nil {
		return err
	}
	log.Info("programmed", "mode", conf.Mode, "interface", conf.Interface,
		"proxyPort", conf.ProxyPort, "adminPort", conf.AdminPort, "proxyUID", conf.ProxyUID)
	return nil
}

// writable says, before anything is changed, what to do where sysctls have to
// be written and cannot be.
func writable(sysctls []string) error {
	var refused []error
	var names []string
	for _, name := range sysctls {
		path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
		if err := unix.Access(path, unix.W_OK); err != nil {
			refused = append(refused, os.NewSyscallError("access "+path, err))
			names = append(names, name+"=1")
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("the pod's network namespace needs %s and this container cannot write them: "+
		"set them in the pod's securityContext.sysctls (the kubelet must allow these, see --allowed-unsafe-sysctls) "+
		"or make this init container privileged: %w", strings.Join(names, " "), errors.Join(refused...))
}
