package gather

import (
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
)

// Options say what may be done to find out.
type Options struct {
	Follow  bool          // a connection
	Connect bool          // to the application, from this node, where no client is asked for
	Wait    time.Duration // for a connection of Facts.Client
}

type gatherer struct {
	pod ns.NetNS
	*explain.Facts
	asked uint16 // the port that was asked for; 0 for none
}

// try notes what could not be found out.
func (g gatherer) try(what string, find func() error) {
	if err := find(); err != nil {
		g.Unknown = append(g.Unknown, what+": "+err.Error())
	}
}
