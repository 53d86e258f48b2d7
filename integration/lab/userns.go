package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// NewInUserNS is New for a namespace that belongs to another user namespace than this
// process's, as that of a Kubernetes pod with hostUsers: false does. Unlike there, its
// user ids are those outside.
func NewInUserNS(t TB, name string) *NS {
	t.Helper()
	return made(t, name, func(name string) error {
		ids := []syscall.SysProcIDMap{{Size: math.MaxInt32}}
		owner := command(context.Background(), "sleep", "infinity")
		owner.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		}
		if err := owner.Start(); err != nil {
			return fmt.Errorf("start sleep in a user namespace: %w", err)
		}
		defer func() {
			_ = owner.Process.Kill()
			_ = owner.Wait()
		}()
		path := filepath.Join(netnsDir, name)
		return errors.Join(
			os.MkdirAll(netnsDir, 0o755), os.WriteFile(path, nil, 0o444),
			os.NewSyscallError("mount", unix.Mount(fmt.Sprintf("/proc/%d/ns/net", owner.Process.Pid), path, "", unix.MS_BIND, "")),
		)
	})
}
