package state

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/install/pods"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// ours are the annotations that are the plugin's.
func ours(all map[string]string) map[string]string {
	var own map[string]string
	for key, value := range all {
		if strings.HasPrefix(key, contract.AnnotationPrefix) {
			if own == nil {
				own = map[string]string{}
			}
			own[key] = value
		}
	}
	return own
}

// Annotated reports whether the annotations of a pod have one that is the plugin's.
func Annotated(all map[string]string) bool { return len(ours(all)) > 0 }

// settle reads the settings of a pod of that namespace. addrs are its addresses, as far as they are
// known; made is a conflist entry with the defaults of the time when it was made, nil
// if those are not known.
func (l *Looker) settle(namespace string, annotations map[string]string, addrs []netip.Addr, made []byte) (f Finding) {
	s := settings.New()
	s.Entry(l.Entry)
	if made != nil {
		s.Entry(made)
	}
	s.Annotations(annotations)
	s.Namespace(namespace)
	f.Addrs, f.annotations, f.namespace = addrs, annotations, namespace
	f.Config, f.Err = s.Config(pods.Interface, addrs)
	switch f.Mode = f.Config.Mode; {
	case f.Err != nil && len(annotations) > 0:
		f.State, f.Mode = Invalid, contract.ModeNone
	case f.Err != nil, f.Mode == contract.ModeNone:
		f.State = NotAsked
	}
	return f
}

// asMade is f with the node's defaults of the time when the pod was made, as its
// rules have them: they may have changed, and its sidecar has not. Lists of ports and
// of clients are as they are now.
func (l *Looker) asMade(f Finding) (Finding, error) {
	c, err := intercept.InForce(f.Path, f.Config)
	if err != nil {
		return f, err
	}
	old, err := l.settleAs(c, f.namespace, f.annotations, f.Addrs)
	if err != nil || old.State != "" {
		return f, err
	}
	old.Path = f.Path
	return old, nil
}

// settleAs is settle with those of the node's defaults that are the sidecar's as in c.
func (l *Looker) settleAs(c intercept.Config, namespace string, annotations map[string]string, addrs []netip.Addr) (Finding, error) {
	made, err := settings.NewEntry(map[string]string{
		"mode": string(c.Mode), "proxy-uid": fmt.Sprint(c.ProxyUID),
		"proxy-port": fmt.Sprint(c.ProxyPort), "admin-port": fmt.Sprint(c.AdminPort),
	})
	if err != nil {
		return Finding{}, err
	}
	return l.settle(namespace, annotations, addrs, made), nil
}

// Made are the settings of a pod with the node's defaults of the time when it was made,
// as the rules in its network namespace have them. ok is false where no rule there says
// the mode, and the annotations do not. It needs the privileges of Look.
func (l *Looker) Made(path, namespace string, annotations map[string]string, addrs []netip.Addr) (c intercept.Config, ok bool, err error) {
	var inForce []intercept.Config
	today := l.settle(namespace, ours(annotations), addrs, nil).Config
	for _, today.Mode = range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		f, err := l.settleAs(today, namespace, ours(annotations), addrs)
		if err != nil || f.State != "" {
			return c, false, err
		}
		if c, err = intercept.InForce(path, f.Config); err != nil {
			return c, false, err
		}
		inForce = append(inForce, c)
	}
	if inForce[0].Mode != inForce[1].Mode { // each is what was asked for
		return c, false, nil
	}
	f, err := l.settleAs(c, namespace, ours(annotations), addrs)
	return f.Config, err == nil && f.State == "", err
}
