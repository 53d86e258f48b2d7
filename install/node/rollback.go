package node

import (
	"context"
	"encoding/json"
)

// losesSettings reports whether the entry on the node has settings that n.Entry lacks,
// and n.Entry none that it lacks: what a rollback brings about, among others.
//
// A plugin refuses a setting that it does not know, so the program and the entry on the
// node must fit at every moment. A later release knows the settings of an earlier one:
// such an entry goes to the node before the program does, all others after it.
func (n *Node) losesSettings() bool {
	var have, want map[string]json.RawMessage
	_, entry, _, _ := findEntry(n.ConfDir, n.Network)
	if json.Unmarshal(entry, &have) != nil || json.Unmarshal(n.Entry, &want) != nil {
		return false
	}
	for key := range want {
		if _, ok := have[key]; !ok {
			return false
		}
	}
	return len(have) > len(want)
}

// shrink writes an entry that loses settings for the program that is still on the node.
// What it cannot do is left to the attempt that follows, which reports it.
func (n *Node) shrink(ctx context.Context, o *Outcome, decide func([]configFile) plan) {
	if !n.losesSettings() {
		return
	}
	var err error
	if n.Binary.supported, err = askVersion(ctx, n.Binary.path()); err == nil {
		_ = n.apply(o, decide)
	}
}
