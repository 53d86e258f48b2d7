package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// states are short, so that a line has 80 columns.
var states = map[string]string{
	AwaitingHeader: "awaiting header", Connecting: "connecting", Relaying: "relaying", HalfClosedByClient: "closed by client", HalfClosedByApplication: "closed by app",
}

var blockers = map[string]string{"client": "client", "application": "app", "both": "both"}

// doing is what a connection does.
func (c *Connection) doing() string {
	state, blocker := cmp.Or(states[c.State], c.State), cmp.Or(blockers[c.BlockedBy], c.BlockedBy)
	switch {
	case c.BlockedBy == "":
		return state
	case c.State == Relaying:
		return "blocked by " + blocker
	}
	return state + ", blocked by " + blocker
}

// from is who the client is or, as long as that is not known, whence the connection came.
func (c *Connection) from() string {
	if !c.Client.IsValid() {
		return "via " + c.Via
	}
	return c.Client.String()
}

// seenAs is a connection's source as far as it differs from the client.
func (c *Connection) seenAs() string {
	switch {
	case c.Source == netip.AddrPort{}:
		return "-"
	case c.Source == c.Client:
		return "same"
	case c.Source.Addr() == c.Client.Addr():
		return fmt.Sprintf(":%d", c.Source.Port())
	}
	return c.Source.String()
}

// live writes the list of connections.
func (w *writer) live(d *Document) {
	if len(d.Live.List) == 0 {
		w.heading("LIVE", "no connections")
		return
	}
	order := "the most bytes first"
	if d.Live.SortedBy == ByAge {
		order = "the oldest first"
	}
	w.heading("LIVE", fmt.Sprintf("%s, %d of %d", order, len(d.Live.List), max(d.Counters.Active, int64(len(d.Live.List)))))
	rows := [][]string{{"CLIENT", "TO", "SEEN AS", "UP", "DOWN", "AGE", "STATE"}}
	to := destinations(d.Live.List)
	for i := range d.Live.List {
		c := &d.Live.List[i]
		row := []string{c.from(), to(c.Destination), c.seenAs(), size(c.BytesUp), size(c.BytesDown), age(c.AgeSeconds), c.doing()}
		for i := range row {
			row[i] = printable.Short(row[i]) // an address may have a zone, of any text
		}
		rows = append(rows, row)
	}
	w.table(rows)
}

// destinations writes a destination as its port, if all of the list's in its family
// have one address, and one that is not known yet as "-".
func destinations(list []Connection) func(netip.AddrPort) string {
	addrs := map[bool]map[netip.Addr]bool{false: {}, true: {}}
	for _, c := range list {
		if c.Destination.IsValid() {
			addrs[c.Destination.Addr().Is6()][c.Destination.Addr()] = true
		}
	}
	return func(a netip.AddrPort) string {
		if !a.IsValid() {
			return "-"
		}
		if len(addrs[a.Addr().Is6()]) == 1 {
			return fmt.Sprintf(":%d", a.Port())
		}
		return a.String()
	}
}

// narrow is as wide as an IPv4 address with its port. A longer one gets a line of its
// own, and so does a last column that is too wide for the line.
const narrow = len("255.255.255.255:65535")

// table writes rows, of which the first is their heading, in columns.
func (w *writer) table(rows [][]string) {
	widths := make([]int, len(rows[0])-1)
	for _, row := range rows {
		for i := range widths {
			if i > 0 || len(row[i]) <= narrow {
				widths[i] = max(widths[i], len(row[i]))
			}
		}
	}
	for i, row := range rows {
		first := row[0]
		if len(first) > widths[0] {
			w.line("  %s", first)
			first = ""
		}
		line := fmt.Sprintf("  %-*s", widths[0], first)
		for i, n := range widths[1:] {
			line += fmt.Sprintf("  %-*s", n, row[i+1])
		}
		if last := row[len(row)-1]; len(line)+2+len(last) <= width {
			line += "  " + last
		} else {
			line = strings.TrimRight(line, " ") + "\n" + fmt.Sprintf("%*s", width, last)
		}
		if i == 0 {
			line = w.paint(faint, line)
		}
		w.line("%s", line)
	}
}
