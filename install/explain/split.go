package explain

import "github.com/tproxy-cni/tproxy-cni/install/explain/trace"

// Split puts packets together that belong to one connection. In nat mode the sidecar
// uses the client's port, and nothing is ambiguous. Otherwise its connections go to the
// client's in turn, which may mix up those of one client that begin at the same time.
func Split(packets []*trace.Packet) (stories []*Story) {
	for _, p := range packets {
		s := owner(stories, p)
		if s == nil && p.Kind() == "SYN" && p.Out != "lo" && p.In != "" {
			s = &Story{Client: p.Src, Server: p.Dst}
			stories = append(stories, s)
		}
		if s != nil {
			s.Packets = append(s.Packets, p)
		}
	}
	return stories
}

// owner is the story that a packet continues.
func owner(stories []*Story, p *trace.Packet) (turn *Story) {
	for _, s := range stories {
		dial := s.first("SYN", true)
		switch lo := p.Out == "lo" || p.In == "lo"; {
		case !lo && (p.Src == s.Client && p.Dst == s.Server || p.Dst == s.Client), // the client's leg
			lo && dial != nil && (p.Dst == dial.Src || p.Src == dial.Src),                    // an answer, or once more
			lo && dial == nil && p.Kind() == "SYN" && p.Src == s.Client && p.Dst == s.Server: // its own port
			return s
		case lo && dial == nil && p.Kind() == "SYN" && turn == nil && p.Src.Addr() == s.Client.Addr() && p.Dst == s.Server:
			turn = s
		}
	}
	return turn
}
