package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// sampled is how many ports of each range are tried, at random.
const sampled = 64

// portRange is ports from which connections are spoofed.
type portRange struct{ low, high uint16 }

// portRanges are those of a mode: in nat mode also the clients' own ports, which are
// mostly above ours.
func portRanges(mode string) []portRange {
	ours := portRange{contract.SpoofPortLow, contract.SpoofPortHigh}
	if mode == contract.ModeNAT {
		return []portRange{ours, {contract.SpoofPortHigh + 1, 65535}}
	}
	return []portRange{ours}
}

// Ports returns a Fault that names the cause if most ports of each range are taken.
//
// A program in the pod that listens on a port on every address keeps the sidecar
// from spoofing any client from it. If one listens on all of them, every client is
// refused, and the sidecar cannot do anything about it. Clients cannot bring this
// about: a port that a client occupies by connecting is occupied for it alone.
func (p Pod) Ports() *Fault {
	for _, f := range families {
		if own, err := p.Own.One(f.nobody.Is6()); err != nil || !own.IsValid() {
			continue
		}
		taken := 0
		ranges := portRanges(p.Mode)
		for _, r := range ranges {
			if mostlyTaken(f.nobody, r) {
				taken++
			}
		}
		if taken == len(ranges) {
			return fault(Ports, fmt.Sprintf("%s: no ports are left to connect to the application in clients' names: %s", f.name, holder(ranges)))
		}
	}
	return nil
}

// mostlyTaken reports whether most of a range's ports are refused to addr, which is
// no host's.
func mostlyTaken(addr netip.Addr, r portRange) bool {
	refused := 0
	for range sampled {
		port := r.low + uint16(rand.N(int(r.high-r.low)+1))
		if errors.Is(sock.TryBind(netip.AddrPortFrom(addr, port)), unix.EADDRINUSE) {
			refused++
		}
	}
	return refused > sampled/2
}

// holder says which uid has the ports.
func holder(ranges []portRange) string {
	uids, err := listeners(func(port uint16) bool {
		for _, r := range ranges {
			if r.low <= port && port <= r.high {
				return true
			}
		}
		return false
	})
	delete(uids, strconv.Itoa(os.Getuid()))
	switch uid, n := foremost(uids); {
	case err != nil:
		return err.Error()
	case n < sampled:
		return "something in this pod has bound them on every address without listening"
	default:
		return fmt.Sprintf("uid %s of this pod listens on %d of these ports", uid, n)
	}
}
