package intercept

// A new TCP connection's way through the rules of other software, for all ports at
// once. What a rule asks of a packet is known (its port), certain (it is TCP, it comes
// in by the pod's interface) or unknown (its source, say); a rule with an unknown
// condition may match and may not.

// action is what a rule does with a packet.
type action int

const (
	actNothing action = iota // the packet goes on to the next rule
	actEnd                   // no other rule of the base chain sees it
	actReturn
	actJump
	actGoto
	actTake // it goes to another port
)

// seenRule is a rule as a new TCP connection sees it.
type seenRule struct {
	ports  portSet // that can match
	sure   bool    // all of ports do match
	action action
	chain  string // of actJump and actGoto
	taken  take   // of actTake
}

// take is where a connection goes.
type take struct {
	verb string // "redirects"
	port uint16 // 0 if it stays the same or is not known
}

// taker is a rule that takes connections.
type taker struct {
	chain string
	rule  int // its number, from 1
	ports portSet
	take
}

// What one look for other interceptors may cost, whatever is in the pod.
const (
	mostSteps     = 50_000 // 64 bytes of a rule, about an expression, are one
	mostDepth     = 64     // jumps within jumps: nftables allows 16, iptables-legacy any number
	mostAddresses = 16     // of a family
	mostOthers    = 20     // that are named,
	mostTakers    = 10     // and of one base chain
)

// budget is what is left of mostSteps.
type budget int

// spend reports whether there is enough for n steps more.
func (b *budget) spend(n int) bool {
	*b -= budget(n)
	return *b >= 0
}

// walk goes through the chains of one table, by their names; see reads a rule.
type walk struct {
	chains map[string][][]byte
	see    func(rule []byte) seenRule
	left   *budget
	depth  int
	found  []taker
}

// through sends connections to some ports through a chain, and returns the ports of
// those that come out at its end or return.
func (w *walk) through(chain string, in portSet) (out portSet) {
	if w.depth == mostDepth {
		w.left.spend(mostSteps)
	}
	if !w.left.spend(1) {
		return in
	}
	w.depth++
	defer func() { w.depth-- }()
	for i, rule := range w.chains[chain] {
		if in.empty() || !w.left.spend(1+len(rule)/64) {
			break
		}
		r := w.see(rule)
		if r.action == actNothing {
			continue
		}
		ports := in.and(r.ports)
		if ports.empty() {
			continue
		}
		var back portSet
		switch r.action {
		case actEnd:
		case actTake:
			w.take(taker{chain, i + 1, ports, r.taken})
		case actReturn:
			out = out.or(ports)
		case actJump:
			back = w.through(r.chain, ports)
		case actGoto:
			out = out.or(w.through(r.chain, ports))
		}
		if r.sure {
			in = in.less(ports).or(back)
		}
	}
	return out.or(in)
}

// take notes a rule once, however many ways lead to it.
func (w *walk) take(t taker) {
	for i, f := range w.found {
		if f.chain == t.chain && f.rule == t.rule {
			w.found[i].ports = f.ports.or(t.ports)
			return
		}
	}
	if len(w.found) < mostTakers {
		w.found = append(w.found, t)
	}
}
