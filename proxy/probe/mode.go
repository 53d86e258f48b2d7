package probe

import "github.com/tproxy-cni/tproxy-cni/proxy/podstat"

// checkMode reports a pod that the plugin has programmed for the other mode. It goes
// by what the plugin says and not by what connections do: conntrack, by which nat mode
// shows, may be another program's, and only a process with CAP_NET_ADMIN can change
// a route. It knows nothing of a pod that an earlier version of the plugin programmed.
func (p Pod) checkMode(f family) error {
	mode, err := podstat.ProgrammedMode(f.nobody.Is6())
	if err != nil {
		return err
	}
	if mode != "" && mode != p.Mode {
		return fault(Mode, "the plugin has prepared this pod for another mode than this process's --mode "+p.Mode)
	}
	return nil
}
