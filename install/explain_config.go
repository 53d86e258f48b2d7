package main

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// explainConfig are the flags of explain.
type explainConfig struct {
	namespace, name string // of the pod
	netns           string
	client          netip.Addr
	port            int
	watch           bool
	connect         bool
	wait            time.Duration
}

func (e *explainConfig) flags(s *flags.Set) {
	s.Arg(func(text string) error {
		var ok bool
		e.namespace, e.name, ok = strings.Cut(text, "/")
		if !ok || e.namespace == "" || e.name == "" || strings.Contains(e.name, "/") {
			return errors.New("want NAMESPACE/POD")
		}
		return nil
	})
	s.Add("netns", "", "`path` of a network namespace, in place of NAMESPACE/POD; --mode and the other settings say what it should be", directory(&e.netns))
	s.Add("client", "", "`address` of the client to explain: its next connection is followed", func(text string) (err error) {
		if e.client, err = netip.ParseAddr(text); err != nil {
			return errors.New("want an IP address")
		}
		e.client = e.client.Unmap()
		return nil
	})
	s.Add("port", "", "`port` of the application; by default the lowest on which it listens", flags.Number(&e.port, 1, 65535))
	s.Bool(&e.watch, "watch", false, "follow connections as they come, until Ctrl-C")
	s.Bool(&e.connect, "connect", true, "without --client, make one connection from this node to the application, and close it")
	s.Add("wait", "10s", "`time` to wait for a connection of --client", flags.Time(&e.wait))
}

// validate returns what is wrong with the flags together.
func (e *explainConfig) validate(given map[string]string, json bool) (faults []error) {
	fault := func(wrong bool, text string) {
		if wrong {
			faults = append(faults, errors.New(text))
		}
	}
	fault((e.name == "") == (e.netns == ""), "want either NAMESPACE/POD or --netns PATH")
	fault(e.name != "" && len(given) > 0, "the settings of a pod are its annotations: "+strings.Join(flagNames(given), ", ")+" is for --netns")
	mode := strings.TrimSpace(given["mode"])
	fault(e.netns != "" && (mode == "" || mode == contract.ModeNone), "--netns needs --mode "+contract.ModeNAT+" or "+contract.ModeTProxy)
	fault(e.watch && json, "--watch has no --json")
	return faults
}

func flagNames(given map[string]string) (names []string) {
	for _, s := range settings.All() {
		if _, ok := given[s.Name]; ok {
			names = append(names, "--"+s.Name)
		}
	}
	return names
}

// withoutSettings hides the settings in the installer's environment, which are the
// node's defaults and no pod's.
func withoutSettings(getenv func(string) string) func(string) string {
	return func(name string) string {
		for _, s := range settings.All() {
			if name == "TPROXY_"+strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")) {
				return ""
			}
		}
		return getenv(name)
	}
}
