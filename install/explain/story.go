package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Story is one connection, as the pod's rules saw its packets.
type Story struct {
	Client, Server netip.AddrPort
	Synthetic      bool // made for this report, from the node
	Packets        []*trace.Packet
}

// Outcome is how a story ends.
type Outcome string

// The outcomes.
const (
	Reached    Outcome = "reached"    // the application answered the sidecar, which uses Seen as its address
	Direct     Outcome = "direct"     // the rules let it go to the application
	Refused    Outcome = "refused"    // one of our rules refused it
	Taken      Outcome = "taken"      // a rule of another table took or dropped it
	Unseen     Outcome = "unseen"     // it never came to the pod
	Undecided  Outcome = "undecided"  // it came, and none of our rules decided
	Silent     Outcome = "silent"     // the sidecar was given it and has not dialled the application
	Dropped    Outcome = "dropped"    // the sidecar's own connection was dropped
	Closed     Outcome = "closed"     // the application's end refused the sidecar
	Unanswered Outcome = "unanswered" // the application's end did not answer the sidecar
)

const (
	ours       = "inet " + contract.Table
	oursNetdev = "netdev " + contract.Table
)

// own reports whether a step is in one of our tables.
func own(s trace.Step) bool { return s.Table == ours || s.Table == oursNetdev }

// End is how the story ends, and the step that decided, if one did.
func (s Story) End() (Outcome, trace.Step) {
	syn := s.first("SYN", false)
	if syn == nil {
		return Unseen, trace.Step{}
	}
	end := Undecided
	for _, step := range syn.Steps {
		switch {
		case !own(step) && (step.Verdict == trace.Drop || rewrites(syn, step)):
			return Taken, step
		case own(step) && step.Verdict == trace.Drop:
			return Refused, step
		case own(step) && step.Hook.Name == "input" && step.Verdict == trace.Accept:
			end = accepted[step.Chain]
		}
	}
	if end == Silent {
		return s.dial()
	}
	return end, trace.Step{}
}

// accepted is what it means that a chain of ours accepts a client's SYN at hook input.
var accepted = map[string]Outcome{
	"closed_in": Silent, // the sidecar has it, and the story goes on
	"exempt":    Direct,
	"input":     Direct,     // its policy
	"orphan":    Unanswered, // an old connection with the same ports is in the way
}

// dial is how the sidecar's connection to the application ends.
func (s Story) dial() (Outcome, trace.Step) {
	syn := s.first("SYN", true)
	if syn == nil {
		return Silent, trace.Step{}
	}
	for _, p := range s.Packets {
		for _, step := range p.Steps {
			if p.Out == "lo" && step.Verdict == trace.Drop {
				return Dropped, step
			}
		}
	}
	switch {
	case s.first("SYN-ACK", true) != nil:
		return Reached, trace.Step{}
	case s.first("RST", true) != nil:
		return Closed, trace.Step{}
	}
	return Unanswered, trace.Step{}
}

// Seen is the client's address as the application has it, where it is Reached or
// Direct.
func (s Story) Seen() netip.AddrPort {
	if syn := s.first("SYN", true); syn != nil {
		return syn.Src
	}
	return s.Client
}

// Whole reports whether nothing more is to be expected.
func (s Story) Whole() bool {
	end, _ := s.End()
	return end != Unseen && end != Undecided && end != Silent && end != Unanswered
}

// first is the first packet of a kind, on lo or off it.
func (s Story) first(kind string, lo bool) *trace.Packet {
	for _, p := range s.Packets {
		if p.Kind() == kind && (p.Out == "lo" || p.In == "lo") == lo && (lo || kind != "SYN" || p.In != "") {
			return p
		}
	}
	return nil
}

// rewrites reports whether a rule of nat changed where the packet goes. It is the last
// that accepts where nat looks at destinations: once that is settled the kernel asks no
// other chain of nat.
func rewrites(p *trace.Packet, s trace.Step) bool {
	if p.Now.Dst == p.Dst {
		return false
	}
	for _, step := range slices.Backward(p.Steps) {
		if step.Hook.NAT && (step.Hook.Name == "prerouting" || step.Hook.Name == "output") && step.Rule > 0 && step.Verdict == trace.Accept {
			return s == step
		}
	}
	return false
}

// Told is one line of the story.
type Told struct {
	Kind  string // SYN, SYN-ACK or RST
	Where string // the interface
	What  string
	Bad   bool
}

// Tell is the story in lines: what happened to each packet.
func (s Story) Tell() (lines []Told) {
	for _, p := range s.Packets {
		where := p.In
		if p.Out != "" {
			where = p.Out
		}
		for _, step := range p.Steps {
			what := describe(p, step)
			answer := p.Out != "" && p.Out != "lo" && step.Verdict == trace.Accept // to the client
			if what == "" || answer {
				continue
			}
			bad := step.Verdict == trace.Drop || !own(step)
			lines = append(lines, Told{p.Kind(), printable.Word(where), what, bad})
		}
	}
	return lines
}

// describe is what a step did to the packet; empty for one that only passed it on.
func describe(p *trace.Packet, s trace.Step) string {
	switch {
	case s.Rule == 0 && s.Verdict != trace.Drop, s.Verdict != trace.Accept && s.Verdict != trace.Drop:
		return ""
	case !own(s):
		if s.Verdict == trace.Drop || rewrites(p, s) {
			return foreign(p, s)
		}
		return ""
	case s.Table == oursNetdev && s.Verdict == trace.Accept, s.Chain == "input" && s.Verdict == trace.Accept:
		return "" // what everything on lo passes
	}
	text := printable.Word(s.Chain) + ": " + printable.Short(s.Comment)
	if rewrites(p, s) {
		text += fmt.Sprintf(" (now :%d)", p.Now.Dst.Port())
	}
	return text
}

// foreign is what a rule of other software did.
func foreign(p *trace.Packet, s trace.Step) string {
	if s.Verdict == trace.Drop {
		return Place(s) + " drops the " + p.Kind()
	}
	text := Place(s) + " takes the " + p.Kind() + " first: "
	if p.Now.Dst.Addr() == p.Dst.Addr() {
		return text + fmt.Sprintf("port %d becomes %d", p.Dst.Port(), p.Now.Dst.Port())
	}
	return text + fmt.Sprintf("%s becomes %s", p.Dst, p.Now.Dst)
}

// Place names a step's rule.
func Place(s trace.Step) string {
	text := "table " + printable.Short(s.Table) + ", chain " + printable.Word(s.Chain)
	if s.Hook.Name != "" {
		text += fmt.Sprintf(" (%s %d)", s.Hook.Name, s.Hook.Priority)
	}
	if s.Rule == 0 {
		return text + ", policy"
	}
	return text + fmt.Sprintf(", rule %d", s.Rule)
}
