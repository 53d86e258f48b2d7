package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// attackArg is the first argument of a test binary that runs in a pod as the
// attacker of the guard's tests.
const attackArg = "attack"

// attack is one way to send a packet from an address that is not the pod's.
type attack struct {
	name string
	from kind            // of address
	run  func(aim) error // errors.ErrUnsupported where the kernel has no such thing in that family

	// limit is why the rules do not stop it; empty if they do.
	limit string

	needs *lab.Feature // a protocol that some kernels lack; nil if none does
}

// kind is the kind of source address. Each attack has an address of its own, so that a
// capture shows which of them got out.
type kind int

const (
	foreign   kind = iota // not assigned to any host
	loopback              // of 127.0.0.0/8, or ::1
	linkLocal             // of 169.254.0.0/16, or fe80::/10
)

// aim is an attack's input.
type aim struct {
	Own netip.Addr       // the pod's
	Dst netip.Addr       // the client's
	Via netip.Addr       // the node's at the other end of the cable
	MAC net.HardwareAddr // the node's end of the cable
	Dev string           // the pod's end

	src      netip.Addr // the foreign address
	listener int        // of the application that the attacker also is
}

// order is one run of the attacker: attacks of one list by one user.
type order struct {
	List   string
	Aims   []aim
	Accept int // port on which connections through the sidecar come
}

// attackLists are the attacks by the user that makes them.
var attackLists = map[string][]attack{
	"user": userAttacks, // no capability
	"root": rootAttacks, // NET_RAW, as runtimes give it by default
	"lo":   loAttacks,   // towards the application, over lo

	"lo root": loRootAttacks, // the same, with NET_RAW
}

// source is the address that the attack with this number uses.
func (a attack) source(number int, like netip.Addr) netip.Addr {
	n := byte(number + 10)
	forms := map[kind][2]netip.Addr{
		foreign:   {netip.AddrFrom4([4]byte{203, 0, 113, n}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x:%x", 0xbad, n))},
		loopback:  {netip.AddrFrom4([4]byte{127, 0, 13, n}), netip.IPv6Loopback()},
		linkLocal: {netip.AddrFrom4([4]byte{169, 254, 13, n}), netip.MustParseAddr(fmt.Sprintf("fe80::%x:%x", 0xbad, n))},
	}[a.from]
	if like.Is4() {
		return forms[0]
	}
	return forms[1]
}

// attackMain is the attacker's main. It reports for each attack whether the kernel
// accepted the packet, which does not mean that it left the pod.
func attackMain(args []string) {
	var o order
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	listener, err := listen(o.Accept)
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	for _, a := range o.Aims {
		a.listener = listener
		for i, att := range attackLists[o.List] {
			a.src = att.source(i, a.Own)
			verdict := "sent"
			switch err := att.run(a); {
			case errors.Is(err, errors.ErrUnsupported), att.needs != nil && errors.Is(err, unix.EPROTONOSUPPORT):
				continue
			case err != nil:
				verdict = err.Error()
			}
			fmt.Printf("%s|%s|%s\n", att.name, a.src, verdict)
		}
	}
	fmt.Println("done")
	// The sockets stay open until the test has looked at them.
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
}

// listen listens as an application does.
func listen(port int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// Connections of an attacker before us may linger.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Port: port}); err != nil {
		return -1, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		return -1, os.NewSyscallError("listen", err)
	}
	fmt.Println("listening")
	return fd, nil
}

// accepted is a socket that the application accepted from the sidecar: it has
// the mark.
func (a aim) accepted() (int, error) {
	for {
		fd, peer, err := unix.Accept4(a.listener, unix.SOCK_CLOEXEC)
		if err != nil {
			return -1, os.NewSyscallError("accept", err)
		}
		if ip := netip.AddrFrom16(peer.(*unix.SockaddrInet6).Addr); ip.Is4In6() != a.Own.Is4() {
			continue // a connection of the family that has had its turn
		}
		mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
		if err == nil && mark != contract.Mark {
			err = fmt.Errorf("the accepted socket has mark %#x", mark)
		}
		return fd, err
	}
}

// step is an operation on a socket.
type step struct {
	name string
	do   func(fd int) error
}

// on runs the steps on a new socket.
func on(domain, sort, proto int, steps ...step) error {
	fd, err := unix.Socket(domain, sort|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	return with(fd, steps...)
}

// notIn6 ends an attack that IPv6 does not have.
func (a aim) notIn6() error {
	if !a.Own.Is4() {
		return errors.ErrUnsupported
	}
	return nil
}

// with runs the steps on a socket and leaves it open.
func with(fd int, steps ...step) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	for _, s := range steps {
		if err := s.do(fd); err != nil {
			return os.NewSyscallError(s.name, err)
		}
	}
	return nil
}

func (a aim) domain() int {
	if a.Own.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (a aim) tcp(steps ...step) error { return on(a.domain(), unix.SOCK_STREAM, 0, steps...) }
func (a aim) udp(steps ...step) error { return on(a.domain(), unix.SOCK_DGRAM, 0, steps...) }
func (a aim) raw(proto int, steps ...step) error {
	return on(a.domain(), unix.SOCK_RAW, proto, steps...)
}

// sockaddr is for the attack's family; link-local addresses are on the pod's
// interface.
func (a aim) sockaddr(ip netip.Addr, port int) unix.Sockaddr {
	if ip.Is4() {
		return &unix.SockaddrInet4{Addr: ip.As4(), Port: port}
	}
	sa := &unix.SockaddrInet6{Addr: ip.As16(), Port: port}
	if ip.IsLinkLocalUnicast() {
		sa.ZoneId = uint32(a.ifindex())
	}
	return sa
}

func (a aim) ifindex() int {
	i, err := net.InterfaceByName(a.Dev)
	if err != nil {
		return 0
	}
	return i.Index
}

func (a aim) bind() step { return a.bindTo(a.src, 0) }

func (a aim) bindTo(ip netip.Addr, port int) step {
	return step{"bind", func(fd int) error { return unix.Bind(fd, a.sockaddr(ip, port)) }}
}

// connect starts to connect.
func (a aim) connect(ip netip.Addr, port int) step {
	return step{"connect", func(fd int) error {
		err := unix.Connect(fd, a.sockaddr(ip, port))
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	}}
}

func (a aim) send(ip netip.Addr, port int, payload []byte) step {
	return a.sendFlags(ip, port, payload, 0)
}

func (a aim) sendFlags(ip netip.Addr, port int, payload []byte, flags int) step {
	return step{"sendto", func(fd int) error {
		err := unix.Sendto(fd, payload, flags, a.sockaddr(ip, port))
		if errors.Is(err, unix.EINPROGRESS) {
			return nil
		}
		return err
	}}
}

func option(name string, level, opt, value int) step {
	return step{name, func(fd int) error { return unix.SetsockoptInt(fd, level, opt, value) }}
}

func device(name string) step {
	return step{"SO_BINDTODEVICE", func(fd int) error { return unix.BindToDevice(fd, name) }}
}

// disconnect makes an accepted socket a new one that still has the mark.
var disconnect = step{"connect AF_UNSPEC", func(fd int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unspecified()), 16)
	if errno != 0 {
		return errno
	}
	return nil
}}

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

// acceptedPerFamily is how many connections of each family come through the
// sidecar to the attacker.
const acceptedPerFamily = 3
