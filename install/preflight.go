package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/plugin/redirect"
)

// preflight lets a child find out what the kernel can do, in a network
// namespace that ends with it. The child has our capabilities or, where
// CAP_SYS_ADMIN is not among them, those of a user namespace of its own.
func preflight(ctx context.Context, log *slog.Logger, s *status) {
	verdicts, err := askKernel(ctx)
	s.setPreflight(verdicts, err)
	if err != nil {
		log.Warn("preflight: unknown what this kernel can do", "err", err)
	}
	for _, v := range verdicts {
		switch {
		case v.Error != "":
			log.Warn("preflight: unknown", "mode", v.Mode, "err", v.Error)
		case len(v.Missing) > 0:
			log.Error("preflight: this kernel cannot do the mode", "mode", v.Mode, "missing", strings.Join(v.Missing, ", "))
		default:
			log.Info("preflight: works", "mode", v.Mode)
		}
	}
}

func askKernel(ctx context.Context) ([]verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	path, _, err := self()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "preflight")
	cmd.Env = os.Environ()
	cmd.Stderr = &stderr
	may, err := hasCap(unix.CAP_SYS_ADMIN)
	if err != nil {
		return nil, err
	}
	if !may {
		// No ids are mapped: to map root's takes CAP_SETFCAP. Ambient
		// capabilities survive the execution without. The network namespace
		// is one to which a thread of the child may come back.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		}
	}
	out, err := cmd.Output()
	if err != nil && !may {
		return nil, fmt.Errorf("it takes CAP_SYS_ADMIN and CAP_NET_ADMIN, or a user namespace: %w %s", err, stderr.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, stderr.Bytes())
	}
	var verdicts []verdict
	return verdicts, json.Unmarshal(out, &verdicts)
}

// preflightChild prints the verdicts on both modes.
func preflightChild(_ context.Context, _ *slog.Logger, w world, _ config) error {
	var verdicts []verdict
	for _, mode := range modes {
		v := verdict{Mode: mode, Missing: []string{}}
		missing, err := redirect.Preflight(mode)
		if v.Missing = append(v.Missing, missing...); err != nil {
			v.Error = err.Error()
		}
		verdicts = append(verdicts, v)
	}
	return json.NewEncoder(w.stdout).Encode(verdicts)
}

// hasCap tells whether this process has the capability in effect.
func hasCap(c int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, os.NewSyscallError("capget", err)
	}
	return data[c/32].Effective&(1<<(c%32)) != 0, nil
}
