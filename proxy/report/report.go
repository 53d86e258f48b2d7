// Package report is what a sidecar tells of itself: the document that its admin port
// serves at /status, that document as text, and the page that shows it. It asks nobody:
// the sidecar fills the document in.
package report

import (
	"net/netip"
	"time"

	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
	"github.com/tproxy-cni/tproxy-cni/proxy/stats"
)

// Document is a sidecar at one moment. docs/REFERENCE.md describes its JSON; fields may
// be added, none is removed or renamed.
type Document struct {
	Version       string         `json:"version"`
	Mode          string         `json:"mode"` // contract.ModeNAT or contract.ModeTProxy
	Address       netip.AddrPort `json:"address"`
	AdminAddress  netip.AddrPort `json:"admin_address"`
	UID           int            `json:"uid"`
	Loops         int            `json:"loops"`
	Time          time.Time      `json:"time"`
	UptimeSeconds float64        `json:"uptime_seconds"`

	Readiness Readiness         `json:"readiness"`
	Guard     string            `json:"packet_guard"` // in force: contract.GuardNFT, GuardTC or GuardNone; "" if not known
	Counters  stats.Snapshot    `json:"counters"`
	Live      Live              `json:"live"`
	Pod       podstat.Reading   `json:"pod"`
	PodError  string            `json:"pod_error"` // what of Pod could not be read; "" if all could
	Routing   []podstat.Routing `json:"routing"`   // of each of the pod's families
	Sysctls   []podstat.Sysctl  `json:"sysctls"`
}

// Readiness is whether new connections reach the application, and otherwise why not.
type Readiness struct {
	Ready   bool       `json:"ready"`
	Reason  string     `json:"reason"`  // one word of probe.Reasons; "" if ready
	Text    string     `json:"text"`    // the reason in a line; "" if ready
	Cure    string     `json:"cure"`    // what to do, in a line; may be ""
	Checked *time.Time `json:"checked"` // when the last check of the pod ended; null: none has
}
