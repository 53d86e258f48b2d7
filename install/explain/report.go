package explain

import (
	"net/netip"

	"github.com/tproxy-cni/tproxy-cni/install/explain/trace"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Report is all that is said of a pod. docs/REFERENCE.md describes its JSON, whose
// fields only grow in number.
type Report struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	NetNS     string         `json:"netns"`
	Node      string         `json:"node"`
	Mode      string         `json:"mode"`
	Plugin    string         `json:"plugin"`
	Sidecar   string         `json:"sidecar"`
	Addresses []netip.Addr   `json:"addresses"`
	Checks    []Check        `json:"checks"`
	Listeners []ListenerInfo `json:"listeners"`
	Counters  []Counter      `json:"counters"`
	Guard     string         `json:"packet_guard"` // in force: nft, tc or none; "" where it is not known
	Story     *StoryInfo     `json:"story"`
	Verdict   Verdict        `json:"verdict"`
	Next      Next           `json:"next"`
}

// ListenerInfo is a listening socket of the pod.
type ListenerInfo struct {
	Address string `json:"address"`
	Role    string `json:"role"` // sidecar, health or application
	UID     uint32 `json:"uid"`
	Process string `json:"process"`
	PID     int    `json:"pid"`
	Queue   uint32 `json:"queue"`
	Limit   uint32 `json:"limit"`
}

// StoryInfo is the story of one connection.
type StoryInfo struct {
	Client    string       `json:"client"`
	Server    string       `json:"server"`
	Synthetic bool         `json:"synthetic"`
	Outcome   Outcome      `json:"outcome"`
	Seen      string       `json:"seen"` // the client's address as the application has it, "" where it has none
	Packets   []PacketInfo `json:"packets"`
}

// PacketInfo is one packet of a handshake.
type PacketInfo struct {
	Kind  string     `json:"kind"`
	In    string     `json:"in"`
	Out   string     `json:"out"`
	Src   string     `json:"src"`
	Dst   string     `json:"dst"`
	Steps []StepInfo `json:"steps"`
}

// StepInfo is a decision of a rule, or of a chain's policy where rule is 0.
type StepInfo struct {
	Table   string `json:"table"`
	Chain   string `json:"chain"`
	Rule    int    `json:"rule"`
	Comment string `json:"comment"`
	Verdict string `json:"verdict"`
}

// New makes the report of these facts.
func New(f Facts) Report {
	v, next := Judge(f)
	r := Report{
		Namespace: printable.Short(f.Namespace), Name: printable.Short(f.Name), NetNS: printable.Short(f.NetNS),
		Node: printable.Short(f.Node), Mode: string(f.Config.Mode), Plugin: printable.Short(f.Plugin),
		Addresses: append([]netip.Addr{}, f.Addrs...), Checks: checks(f), Counters: append([]Counter{}, f.Counters...),
		Guard: string(f.Guard), Listeners: []ListenerInfo{}, Story: f.Story.info(), Verdict: v, Next: next,
	}
	if f.Ready != nil {
		r.Sidecar = printable.Short(f.Ready.Version)
	}
	for _, l := range f.Listeners {
		role := "application"
		switch {
		case l.Addr.Port() == f.Config.AdminPort:
			role = "health"
		case !f.other(l):
			role = "sidecar"
		}
		r.Listeners = append(r.Listeners, ListenerInfo{l.Addr.String(), role, l.UID, printable.Short(l.Process), l.PID, l.Queue, l.Limit})
	}
	return r
}

// Status is the exit status of a command that prints the report: 0 fine, 1 fault,
// 3 unknown.
func (r Report) Status() int {
	return map[State]int{Fine: 0, Fault: 1, Unclear: 3}[r.Verdict.State]
}

func (s *Story) info() *StoryInfo {
	if s == nil {
		return nil
	}
	end, _ := s.End()
	info := &StoryInfo{Client: s.Client.String(), Server: s.Server.String(), Synthetic: s.Synthetic, Outcome: end, Packets: []PacketInfo{}}
	if end == Reached || end == Direct {
		info.Seen = s.Seen().String()
	}
	for _, p := range s.Packets {
		packet := PacketInfo{p.Kind(), printable.Short(p.In), printable.Short(p.Out), p.Src.String(), p.Dst.String(), []StepInfo{}}
		for _, step := range p.Steps {
			packet.Steps = append(packet.Steps, stepInfo(step))
		}
		info.Packets = append(info.Packets, packet)
	}
	return info
}

func stepInfo(s trace.Step) StepInfo {
	return StepInfo{printable.Short(s.Table), printable.Short(s.Chain), s.Rule, printable.Short(s.Comment), string(s.Verdict)}
}
