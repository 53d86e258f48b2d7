package intercept

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"unicode"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Config says what Apply programs. Nothing has a default here: Apply and Check
// refuse the zero value of each field but the lists, and name every fault at
// once. Default fills all that must be set.
type Config struct {
	// Mode is contract.ModeNAT or contract.ModeTProxy. The zero value is
	// not a mode, and contract.ModeNone is for callers: both are refused.
	Mode contract.Mode

	// Interface is the pod's interface on which connections are intercepted,
	// CNI_IFNAME. It is not lo, on which the spoofed leg is. "" is refused.
	Interface string

	// ProxyPort is the sidecar's TCP port, AdminPort that of its health
	// endpoint, which is never intercepted. 0 is refused, and so is one port
	// for both.
	ProxyPort, AdminPort uint16

	// ProxyUID is the only user that may open a connection from a foreign
	// source. 0 is refused, because every process of root in the pod could.
	ProxyUID uint32

	// PacketGuard says what to do where the kernel has no hook for the whole packet
	// guard: contract.PacketGuardRequired or contract.PacketGuardBestEffort. "" is
	// refused.
	PacketGuard contract.PacketGuard

	IncludePorts   []PortRange    // TCP ports to intercept; all if empty
	ExcludePorts   []PortRange    // TCP ports not to intercept, also where included; none if empty
	ExcludeSources []netip.Prefix // clients whose connections are not intercepted; none if empty
}

// Default is mode on eth0 with all else as package contract has it. It does not
// validate mode; Apply and Check do.
func Default(mode contract.Mode) Config {
	return Config{
		Mode: mode, Interface: "eth0",
		ProxyPort: contract.ProxyPort, AdminPort: contract.AdminPort, ProxyUID: contract.ProxyUID,
		PacketGuard: contract.PacketGuardRequired,
	}
}

// validate returns an error with a line for each fault. The kernel would take
// most of them and do something else: rules for an unknown mode would be those of
// tproxy, and with uid 0 every process of root could use a client's address.
func (c Config) validate() error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(c.Mode != contract.ModeNAT && c.Mode != contract.ModeTProxy,
		"mode %s: want %s or %s", printable.Quote(string(c.Mode)), contract.ModeNAT, contract.ModeTProxy)
	if err := CheckInterface(c.Interface); err != nil {
		faults = append(faults, err)
	}
	fault(c.ProxyPort == 0, "proxy port 0: want 1-65535")
	fault(c.AdminPort == 0, "admin port 0: want 1-65535")
	fault(c.ProxyPort != 0 && c.ProxyPort == c.AdminPort, "proxy port and admin port are both %d: want two", c.ProxyPort)
	fault(c.ProxyUID == 0, "proxy uid 0: every process of root in the pod could use a client's address")
	fault(c.ProxyUID == math.MaxUint32, "proxy uid %d: not a uid, the kernel uses the number for none", c.ProxyUID)
	fault(c.PacketGuard != contract.PacketGuardRequired && c.PacketGuard != contract.PacketGuardBestEffort,
		"packet guard %s: want %s or %s", printable.Quote(string(c.PacketGuard)), contract.PacketGuardRequired, contract.PacketGuardBestEffort)
	for _, list := range []struct {
		what   string
		ranges []PortRange
	}{{"included", c.IncludePorts}, {"excluded", c.ExcludePorts}} {
		for _, r := range list.ranges {
			fault(r.Low > r.High, "%s ports %d-%d: the range is reversed", list.what, r.Low, r.High)
		}
	}
	for _, p := range c.ExcludeSources {
		fault(!p.IsValid() || p.Addr().Is4In6(), "excluded source %s: want a CIDR of IPv4 or IPv6", p)
	}
	return errors.Join(faults...)
}

// CheckInterface reports why a pod's connections cannot be intercepted on an
// interface of that name. The rules of CNI leave open what a name is made of;
// the kernel takes nearly every byte.
func CheckInterface(name string) error {
	if err := utils.ValidateInterfaceName(name); err != nil {
		return fmt.Errorf("interface %s: %s", printable.Quote(name), err.Msg)
	}
	if name == "lo" {
		return errors.New("interface lo: the pod talks to itself there, nothing is intercepted on it")
	}
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return fmt.Errorf("interface %s: the name has characters that do not print", printable.Quote(name))
	}
	return nil
}

// PortRange is a range of TCP ports, both ends inclusive.
type PortRange struct{ Low, High uint16 }
