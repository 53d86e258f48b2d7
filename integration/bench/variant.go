package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
)

// variant is one way from a client to the application.
type variant struct {
	name string
	role role

	full string // of a reduced variant, the one with all rules

	exactPort bool // the application sees the client's port, too
	onlyIPv4  bool

	rules func(*site) error  // programs the pod; nil: nothing
	proxy func(*site) *start // how the proxy is started; nil: there is none
}

// role decides in which tables a variant is, and what it is compared with.
type role int

const (
	limit    role = iota // no interception: the upper bound
	ours                 // a sidecar under test
	peer                 // another proxy as its users set it up
	borrower             // another proxy on our rules
	reduced              // a sidecar under test on a part of our rules
)

// directName is the variant of role limit.
const directName = "direct"

// start is a program to run in the pod.
type start struct {
	user    lab.User
	args    []string
	files   []*os.File // its descriptors from 3 on
	env     []string
	workers int // processes that it starts, where files are given
}

// variants returns all variants: each sidecar under test in both modes, beside the
// peers or, with rules, beside itself with reduced rules.
func variants(proxies []sidecar, rules bool) []variant {
	all := []variant{{name: directName, role: limit, exactPort: true}}
	for _, p := range proxies {
		for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
			full := variant{
				name: p.label(mode), role: ours, exactPort: mode == contract.ModeNAT,
				rules: ourRules(mode), proxy: ourProxy(p.path, mode),
			}
			all = append(all, full)
			if rules {
				all = append(all, reducedVariants(full, mode)...)
			}
		}
	}
	if rules {
		return all
	}
	for _, threads := range []int{1, 2} {
		all = append(
			all,
			variant{name: fmt.Sprintf("haproxy-%d", threads), role: peer, rules: peerRules, proxy: haproxy(threads, true)},
			variant{name: fmt.Sprintf("nginx-%d", threads), role: peer, rules: peerRules, proxy: nginx(threads)},
			variant{
				// It asks for the original destination in IPv4 only.
				name: fmt.Sprintf("haproxy-%d/nat", threads), role: borrower, onlyIPv4: true,
				rules: ourRules(contract.ModeNAT), proxy: haproxy(threads, false),
			},
			variant{
				name: fmt.Sprintf("haproxy-%d/tproxy", threads), role: borrower,
				rules: ourRules(contract.ModeTProxy), proxy: haproxy(threads, true),
			},
			variant{
				name: fmt.Sprintf("nginx-%d/tproxy", threads), role: borrower,
				rules: ourRules(contract.ModeTProxy), proxy: nginx(threads),
			},
		)
	}
	return all
}

// sidecar is a tproxy-proxy binary under test. With more than one, each has a
// name.
type sidecar struct{ name, path string }

func (p sidecar) label(mode string) string { return strings.TrimPrefix(p.name+"-"+mode, "-") }

func ourRules(mode string) func(*site) error {
	return func(s *site) error { return intercept.Apply(s.net.Pod.Path(), intercept.Default(contract.Mode(mode))) }
}

// ourProxy runs as in a pod. It logs no connections, and neither do the peers.
func ourProxy(path, mode string) func(*site) *start {
	return func(*site) *start {
		user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
		if mode == contract.ModeTProxy {
			user.Caps = []string{"net_raw"}
		}
		return &start{user: user, args: []string{path, "--mode", mode, "--log-level", "warn"}}
	}
}

// peerUser has NET_ADMIN, which the peers need to spoof, and the sidecar's uid, which
// our rules match.
var peerUser = lab.User{UID: contract.ProxyUID, Caps: []string{"net_admin"}}

var (
	//go:embed peers/haproxy.cfg
	haproxyConfig string
	//go:embed peers/nginx.conf
	nginxConfig string
	//go:embed peers/peer.nft
	peerNFT string
	//go:embed peers/peer.ip
	peerIP string
)

func peerRules(s *site) error {
	if err := s.batch(s.net.Pod, peerNFT, "nft", "-f", "-"); err != nil {
		return err
	}
	return errors.Join(s.batch(s.net.Pod, peerIP, "ip", "-4", "-batch", "-"), s.batch(s.net.Pod, peerIP, "ip", "-6", "-batch", "-"))
}

func haproxy(threads int, transparent bool) func(*site) *start {
	return func(s *site) *start {
		conf := s.render("haproxy.cfg", haproxyConfig, map[string]any{"Threads": threads, "Transparent": transparent})
		return &start{user: peerUser, args: []string{"haproxy", "-db", "-f", conf}}
	}
}

func nginx(workers int) func(*site) *start {
	return func(s *site) *start {
		conf := s.render("nginx.conf", nginxConfig, map[string]any{"Threads": workers, "Dir": s.dir})
		st := &start{
			user: peerUser, args: []string{"nginx", "-e", "stderr", "-p", s.dir, "-c", conf},
			env: []string{"NGINX=3;4;"}, workers: workers,
		}
		for _, bind := range []unix.Sockaddr{
			&unix.SockaddrInet4{Port: contract.ProxyPort}, &unix.SockaddrInet6{Port: contract.ProxyPort},
		} {
			f, err := transparentListener(s.net.Pod, bind)
			if err != nil {
				s.t.Fatalf("listener for nginx: %v", err)
			}
			st.files = append(st.files, f)
		}
		return st
	}
}

// transparentListener opens a listener with IP_TRANSPARENT for nginx, which cannot, as a
// socket of the sidecar's uid.
func transparentListener(pod *lab.NS, bind unix.Sockaddr) (f *os.File, err error) {
	family := unix.AF_INET
	if _, ok := bind.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	err = pod.Do(func() error {
		// Our rules accept only sockets of the sidecar's uid, which the thread, that
		// ends with this function, has when it opens one.
		if err := unix.Setfsuid(contract.ProxyUID); err != nil {
			return os.NewSyscallError("setfsuid", err)
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		f = os.NewFile(uintptr(fd), "listener")
		set := []struct{ level, option int }{{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.IPPROTO_IP, unix.IP_TRANSPARENT}}
		if family == unix.AF_INET6 {
			set = append(set, struct{ level, option int }{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY})
		}
		for _, o := range set {
			if err := unix.SetsockoptInt(fd, o.level, o.option, 1); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
		if err := unix.Bind(fd, bind); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("listen", unix.Listen(fd, 4096))
	})
	return f, err
}

// render writes a template as a file that every user can read.
func (s *site) render(name, text string, data any) string {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err == nil {
		err = template.Must(template.New(name).Parse(text)).Execute(f, data)
		f.Close()
	}
	if err != nil {
		s.t.Fatalf("write %s: %v", path, err)
	}
	return path
}

// run starts the program in the pod; it ends with the benchmark.
func (st *start) run(s *site) *lab.Proc {
	args := st.user.Args(st.args...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = s.dir // HAProxy returns to where it started: a checkout below /root is closed to it
	cmd.ExtraFiles = st.files
	cmd.Env = append(os.Environ(), st.env...)
	// nginx' workers outlive a killed master and keep its output open: SIGTERM
	// first, and do not wait for long.
	cmd.WaitDelay = time.Second
	p := s.net.Pod.StartCmd(cmd)
	s.t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.Done():
		case <-time.After(time.Second):
		}
	})
	for _, f := range st.files {
		f.Close()
	}
	return p
}
