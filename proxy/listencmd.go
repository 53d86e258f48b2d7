package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/proxy/probe"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// runListen is the command listen: it opens the listeners of tproxy mode, for which the
// kernel wants NET_RAW, gives up every capability and becomes another program, which
// inherits them by systemd's protocol. It returns only if that fails.
func runListen(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var c config
	var one bool
	s := flags.New("TPROXY_", "tproxy-proxy listen [FLAGS] -- COMMAND [ARGUMENTS] opens the listeners of tproxy mode with NET_RAW, "+
		"gives up every capability and becomes COMMAND, which finds them as its descriptors 3 (IPv4) and 4 (IPv6), and in LISTEN_FDS. "+
		"It must run as the proxy's user.")
	addAddr(s, &c)
	s.Bool(&one, "dual-stack", false, "one listener for both families, descriptor 3, as tproxy-proxy itself takes it")
	own, command := args, []string(nil)
	if i := slices.Index(args, "--"); i >= 0 {
		own, command = args[:i], args[i+1:]
	}
	err := s.Parse(own, getenv, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if len(command) == 0 {
		err = errors.Join(err, errors.New("no command: write it behind --, as in tproxy-proxy listen -- haproxy -f haproxy.cfg"))
	}
	if err != nil {
		fmt.Fprintf(stderr, "tproxy-proxy listen: %v\n", err)
		return 2
	}
	fmt.Fprintf(stderr, "tproxy-proxy listen: %v\n", listenAndBecome(c.addr, one, command))
	return 1
}

// listenAndBecome returns only with an error.
func listenAndBecome(addr netip.AddrPort, one bool, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err // complete: exec: "haproxy": executable file not found in $PATH
	}
	if err := raiseNetRaw(); err != nil {
		return err
	}
	var fds []int
	for _, open := range openers(addr, one) {
		ln, err := open(context.Background())
		switch {
		case errors.Is(err, unix.EAFNOSUPPORT) && len(fds) > 0:
			continue // a kernel without IPv6
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("%w: %w", err, whyNoNetRaw())
		case err != nil:
			return probe.ExplainTaken(err, addr.Port(), "addr", "proxy-port")
		}
		fd, err := sock.Detach(ln)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	if err := renounceCapabilities(); err != nil {
		return err
	}
	return become(path, command, environment(os.Environ(), os.Getpid(), len(fds)), fds)
}

// openers open the listeners in the order of their descriptors. HAProxy and nginx want
// one for each family.
func openers(addr netip.AddrPort, one bool) []func(context.Context) (*net.TCPListener, error) {
	if one || !addr.Addr().IsUnspecified() {
		return []func(context.Context) (*net.TCPListener, error){func(ctx context.Context) (*net.TCPListener, error) {
			return sock.Listen(ctx, addr, sock.Transparent)
		}}
	}
	var all []func(context.Context) (*net.TCPListener, error)
	for _, ip := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		all = append(all, func(ctx context.Context) (*net.TCPListener, error) {
			return sock.ListenFamily(ctx, netip.AddrPortFrom(ip, addr.Port()), sock.Transparent)
		})
	}
	return all
}

// environment is env with n listeners for the process pid: see sd_listen_fds(3).
func environment(env []string, pid, n int) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == listenPID || name == listenFDs || name == "LISTEN_FDNAMES" || name == "LISTEN_PIDFDID"
	})
	return append(env, fmt.Sprintf("%s=%d", listenPID, pid), fmt.Sprintf("%s=%d", listenFDs, n))
}
