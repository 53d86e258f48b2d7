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

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// ownNetNS is the network namespace that this program was started in: the pod's
// for setup, the node's for install. Not /proc/self, which is the main thread's:
// that one may have been left behind in a scratch namespace of CHECK.
const ownNetNS = "/proc/thread-self/ns/net"

// setup programs the pod that this process runs in. An init container needs
// CAP_NET_ADMIN and sysctls that are set already: /proc/sys is read-only in a
// container that is not privileged.
func setup(_ context.Context, log *slog.Logger, _ world, c config) error {
	s := settings.New()
	s.Flags(c.settings)
	conf, err := s.Config(c.iface, nil)
	if err != nil {
		return err
	}
	wrong, err := intercept.WrongSysctls(ownNetNS)
	if err != nil {
		return err
	}
	if err := checkWritable(wrong); err != nil {
		return err
	}
	guard, err := intercept.ApplyGuarded(ownNetNS, conf)
	if err != nil {
		return err
	}
	log.Info("programmed", "mode", conf.Mode, "interface", conf.Interface,
		"proxy_port", conf.ProxyPort, "admin_port", conf.AdminPort, "proxy_uid", conf.ProxyUID)
	if guard.Guard != contract.GuardNFT {
		log.Warn(printable.Line(guard.String()))
	}
	others, err := intercept.Others(ownNetNS, conf)
	if err != nil {
		log.Warn("cannot look for other interceptors", "err", printable.Line(err.Error()))
	}
	for _, o := range others {
		log.Warn("another interceptor takes this pod's connections: "+intercept.OthersMean, "rule", printable.Line(o.String()))
	}
	return nil
}

// checkWritable returns an error that says what to do if sysctls must be written
// and cannot be, before anything is changed.
func checkWritable(sysctls []string) error {
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
