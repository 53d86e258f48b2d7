package dial

// lease is the ports that one connection occupies.
type lease struct {
	held   uint16 // the client's own; 0: none
	leased uint16 // 0: none
}

// hold keeps the client's own port from being given out. Few clients have one that
// could be.
func (l *lease) hold(p *ports, pr Pair, port uint16) {
	if inRange(port) && l.held == 0 {
		l.held = port
		p.hold(pr, port)
	}
}

// take exchanges the leased port, if there is one, for another. The error is
// errNoPort.
func (l *lease) take(p *ports, pr Pair) (uint16, error) {
	port, err := p.take(pr)
	l.drop(p, pr, &l.leased)
	l.leased = port
	return port, err
}

func (l *lease) end(p *ports, pr Pair) {
	l.drop(p, pr, &l.leased)
	l.drop(p, pr, &l.held)
}

func (l *lease) drop(p *ports, pr Pair, port *uint16) {
	if *port != 0 {
		p.release(pr, *port)
		*port = 0
	}
}
