package dial

// Handed is an Attempt as it goes to another program.
type Handed struct {
	Held   uint16 `json:"held,omitempty"`
	Leased uint16 `json:"leased,omitempty"`
	Plain  bool   `json:"plain,omitempty"`
	Named  bool   `json:"named,omitempty"`
	Tries  uint8  `json:"tries,omitempty"`
	Retold bool   `json:"retold,omitempty"`
}

// HandOver describes the attempt.
func (a *Attempt) HandOver() Handed {
	return Handed{a.held, a.leased, a.plain, a.named, a.tries, a.retold}
}

// TakeOver is the attempt that h describes. The ports that it has are taken again.
func (d *Dialer) TakeOver(h Handed, pr Pair) Attempt {
	a := Attempt{plain: h.Plain, named: h.Named, tries: h.Tries, retold: h.Retold}
	a.hold(&d.ports, pr, h.Held)
	if inRange(h.Leased) {
		a.leased = h.Leased
		d.ports.hold(pr, h.Leased)
	}
	return a
}
