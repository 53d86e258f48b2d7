package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
)

// addSidecar adds a command's flag for the sidecar's admin port. to stays invalid if
// neither it nor its environment variable is set.
func addSidecar(s *flags.Set, to *netip.AddrPort) {
	s.Add("admin", "", "`address` of the sidecar's admin port, as the sidecar's own --admin; by default the one that it was started with", flags.Listen(to))
}

// askSidecar is ask at admin or, if that is invalid, wherever a sidecar is found.
func askSidecar(admin netip.AddrPort, getenv func(string) string, method, path string) (body []byte, err error) {
	err = eachSidecar(admin, getenv, func(a netip.AddrPort) (err error) {
		body, err = ask(a, method, path)
		return err
	})
	return body, err
}

// eachSidecar calls try with admin or, if that is invalid, with the admin ports of the
// sidecars that are found, until it returns nil.
func eachSidecar(admin netip.AddrPort, getenv func(string) string, try func(netip.AddrPort) error) error {
	if admin.IsValid() {
		return try(admin)
	}
	var faults []error
	for _, a := range adminAddresses("/proc", getenv) {
		err := try(a)
		if err == nil {
			return nil
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// adminAddresses is where the sidecars that run here have their admin port. `kubectl
// exec` passes on the container's environment, but not its arguments: those are in
// proc, for every process to read. If none is to be seen it is the port of a sidecar
// without arguments.
func adminAddresses(proc string, getenv func(string) string) (all []netip.AddrPort) {
	add := func(args []string) {
		if c, err := parseConfig(args, getenv, io.Discard); err == nil && !slices.Contains(all, c.admin) {
			all = append(all, c.admin)
		}
	}
	for _, args := range sidecars(proc) {
		add(args)
	}
	if len(all) == 0 {
		add(nil)
	}
	if len(all) == 0 { // a setting in the environment is wrong
		all = append(all, netip.AddrPortFrom(netip.IPv6Unspecified(), contract.AdminPort))
	}
	return all
}

// sidecars are the arguments of the other processes that have this program's name.
func sidecars(proc string) (all [][]string) {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	files, _ := filepath.Glob(proc + "/[0-9]*/cmdline")
	for _, file := range files {
		if filepath.Base(filepath.Dir(file)) == fmt.Sprint(os.Getpid()) {
			continue
		}
		text, err := os.ReadFile(file)
		args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if err == nil && filepath.Base(args[0]) == filepath.Base(self) {
			all = append(all, args[1:])
		}
	}
	return all
}
