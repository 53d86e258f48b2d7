package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// Port returns nil unless the rules send clients to another port than p.Addr's. They
// refuse this uid's own connections to the port that they know. While nothing listens
// on ours, or where an earlier version of the plugin made the rules, nothing shows.
//
// The rules count each call as a loop that they have refused.
func (p Pod) Port(ctx context.Context) *Fault {
	for _, f := range families {
		own, err := p.Own.One(f.nobody.Is6())
		if at := p.Addr.Addr(); err != nil || !own.IsValid() || !at.IsUnspecified() && at != own {
			continue
		}
		if mode, err := podstat.ProgrammedMode(f.nobody.Is6()); err != nil || mode == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, p.Patience)
		conn, err := sock.Connect(ctx, netip.AddrPort{}, netip.AddrPortFrom(own, p.Addr.Port()))
		cancel()
		if err == nil {
			sock.Reset(conn)
		}
		// The rules refuse the SYN. A reset is of a connection that was made: by our own
		// listener, which may be faster than this look at it.
		if err == nil || errors.Is(err, unix.ECONNRESET) {
			return fault(Port, fmt.Sprintf("the plugin's proxy-port is not this process's %d: clients are refused", p.Addr.Port()))
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
	}
	return nil
}
