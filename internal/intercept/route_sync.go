package intercept

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addRoutes adds routes of f's.
func (f family) addRoutes(h *netlink.Handle, routes []netlink.Route) error {
	for _, r := range routes {
		if err := h.RouteReplace(&r); err != nil {
			return fmt.Errorf("add %s route %q: %w", f.name, routeText(h, r), err)
		}
	}
	return nil
}

// removeRoutes is addRoutes undone.
func (f family) removeRoutes(h *netlink.Handle, routes []netlink.Route) error {
	for _, r := range routes {
		r.Protocol = unix.RTPROT_UNSPEC
		if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete %s route %q: %w", f.name, routeText(h, r), err)
		}
	}
	return nil
}

// checkRoutes names what differs in f's routes.
func (f family) checkRoutes(h *netlink.Handle) (diffs []string, err error) {
	for _, r := range slices.Concat(f.routes, f.exposed) {
		switch protocol, err := f.protocolOf(h, r); {
		case errors.Is(err, unix.ESRCH):
			diffs = append(diffs, fmt.Sprintf("%s route %q is missing", f.name, routeText(h, r)))
		case err != nil:
			return nil, err
		case protocol != r.Protocol:
			diffs = append(diffs, fmt.Sprintf("%s route %q has protocol %d, not %d", f.name, routeText(h, r), protocol, r.Protocol))
		}
	}
	return diffs, nil
}

// hasRoutes reports whether any of f's own routes is there.
func (f family) hasRoutes(h *netlink.Handle) (bool, error) {
	for _, r := range f.routes {
		if _, err := f.protocolOf(h, r); !errors.Is(err, unix.ESRCH) {
			return err == nil, err
		}
	}
	return false, nil
}

// protocolOf finds a route; the error is ESRCH if it is not there.
func (f family) protocolOf(h *netlink.Handle, want netlink.Route) (netlink.RouteProtocol, error) {
	routes, err := listWhole(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(f.af, &netlink.Route{Table: want.Table, Type: unix.RTN_LOCAL},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return 0, fmt.Errorf("list %s routes of table %d: %w", f.name, want.Table, err)
	}
	for _, r := range routes {
		if r.LinkIndex == want.LinkIndex && isDefault(r.Dst) && (want.Priority == 0 || r.Priority == want.Priority) {
			return r.Protocol, nil
		}
	}
	return 0, unix.ESRCH
}
