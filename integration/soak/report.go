package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/results"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// reportName is the report's file, in Markdown.
const reportName = "soak.md"

// report is what the soak has to say.
type report struct {
	date          time.Time
	machine       results.Machine
	took          time.Duration
	ledger        *ledger
	before, after []reading // of each mode
}

func newReport(l *ledger, took time.Duration, before, after []reading) *report {
	return &report{time.Now().UTC(), results.ThisMachine(), took, l, before, after}
}

// faults are the figures that are not as they should be.
func (r *report) faults() (all []string) {
	for i, after := range r.after {
		gone := r.ledger.of(place{kind: ghostsGone, mode: after.mode}).Conns
		all = append(all, after.faults(r.ledger.of(place{mode: after.mode}), gone, r.before[i])...)
	}
	return all
}

// write shows the report on w and, if all is as it should be, leaves it as a file for a
// page; the error says what is not.
func (r *report) write(w io.Writer, dir string) error {
	fmt.Fprintf(w, "\n%s\n", r.summary())
	for _, t := range r.tables() {
		if err := t.Text(w); err != nil {
			return err
		}
	}
	if faults := r.faults(); len(faults) > 0 {
		return fmt.Errorf("%d figures are not as they should be:\n%s", len(faults), strings.Join(faults, "\n"))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, reportName), []byte(r.markdown()), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.summary())
	for _, t := range r.tables() {
		fmt.Fprintln(&b) // or it would be a part of what is above
		t.Markdown(&b)
	}
	return b.String()
}

func (r *report) tables() []results.Table { return []results.Table{r.clients(), r.sidecars()} }

// summary says in a few lines what was done and what was wrong.
func (r *report) summary() string {
	sum := r.ledger.of(place{})
	nat := r.ledger.of(place{mode: contract.ModeNAT})
	return fmt.Sprintf("%s: %s connections in %.1f minutes, %.0f a second, all kinds at once in both modes and both families. "+
		"%s times the peer that the application saw was compared with the client's own socket: 0 wrong addresses. "+
		"In nat mode the port was the client's, too, in all but %s of %s. %.1f GB were compared: 0 bytes lost, doubled or swapped.",
		r.machine.On(r.date), count(sum.Conns), r.took.Minutes(), float64(sum.Conns)/r.took.Seconds(),
		count(sum.Peers), count(nat.Others), count(nat.Peers), float64(sum.Bytes)/1e9)
}

// rows are the kinds of clients in the order of the report.
func rows() (all []string) {
	for _, k := range kinds {
		all = append(all, k.name)
	}
	all = append(all, ghostsGone, ghostsBack)
	for _, p := range programs {
		all = append(all, p.name)
	}
	return all
}

// clients has a row for each kind of client.
func (r *report) clients() results.Table {
	t := results.Table{Head: []string{"connections"}}
	var columns []place
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		for _, f := range families {
			columns = append(columns, place{mode: mode, family: f.name})
			t.Head = append(t.Head, mode+", "+f.name)
		}
	}
	t.Head = append(t.Head, "all", "peers compared", "GB")
	row := func(name, kind string) {
		cells := []string{name}
		for _, p := range columns {
			p.kind = kind
			cells = append(cells, count(r.ledger.of(p).Conns))
		}
		sum := r.ledger.of(place{kind: kind})
		t.Rows = append(t.Rows, append(cells, count(sum.Conns), count(sum.Peers), fmt.Sprintf("%.2f", float64(sum.Bytes)/1e9)))
	}
	for _, kind := range rows() {
		row(kind, kind)
	}
	row("all", "")
	return t
}

// usual are the ends that the clients bring about.
var usual = []string{"closed", "client reset", "application reset", "client timeout", "client error"}

// sidecars has a row for each figure of the sidecars.
func (r *report) sidecars() results.Table {
	t := results.Table{Head: []string{"the sidecar"}}
	for _, a := range r.after {
		t.Head = append(t.Head, a.mode)
	}
	row := func(name string, figure func(before, after reading) string) {
		cells := []string{name}
		for i, a := range r.after {
			cells = append(cells, figure(r.before[i], a))
		}
		t.Rows = append(t.Rows, cells)
	}
	row("connections that the clients opened", func(_, a reading) string { return count(r.ledger.of(place{mode: a.mode}).Conns) })
	row("accepted, by its metrics", func(_, a reading) string { return whole(a.metrics["connections_accepted_total"]) })
	row("in its log", func(_, a reading) string { return whole(a.log["connections_accepted_total"]) })
	row("without a line: `client silent`", func(_, a reading) string { return whole(a.metrics[closed("client silent")]) })
	row("lines lost", func(_, a reading) string { return whole(a.metrics["log_lines_lost_total"]) })
	for _, how := range usual {
		row("ended as `"+how+"`", func(_, a reading) string { return whole(a.metrics[closed(how)]) })
	}
	row("ended otherwise", func(_, a reading) string {
		var n float64
		for _, how := range a.ends() {
			if !slices.Contains(usual, how) && !slices.Contains(unlogged, how) {
				n += a.metrics[closed(how)]
			}
		}
		return whole(n)
	})
	row("open files, before and after", func(b, a reading) string {
		return whole(b.metrics["process_open_fds"]) + ", " + whole(a.metrics["process_open_fds"])
	})
	row("resident memory, MB", func(b, a reading) string {
		const key = "process_resident_memory_bytes"
		return fmt.Sprintf("%.1f, %.1f", b.metrics[key]/1e6, a.metrics[key]/1e6)
	})
	row("goroutines", func(b, a reading) string {
		return whole(b.metrics["go_goroutines"]) + ", " + whole(a.metrics["go_goroutines"])
	})
	row("TCP sockets of the pod", func(b, a reading) string { return fmt.Sprintf("%d, %d", b.sockets, a.sockets) })
	row("CPU, µs for each connection", func(b, a reading) string {
		const key = "process_cpu_seconds_total"
		conns := a.metrics["connections_accepted_total"] - b.metrics["connections_accepted_total"]
		return whole((a.metrics[key] - b.metrics[key]) / max(conns, 1) * 1e6)
	})
	return t
}

// count writes a number with its thousands apart.
func count(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func whole(x float64) string { return count(int64(x + .5)) }
