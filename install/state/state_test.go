package state

import (
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// TestDefaultsThatChange: a pod keeps the settings that it was made with, which are
// its sidecar's, when the node's defaults change; what its annotations say counts.
func TestDefaultsThatChange(t *testing.T) {
	lab.Need(t, "nft")
	today, err := settings.NewEntry(map[string]string{"mode": contract.ModeNAT})
	if err != nil {
		t.Fatal(err)
	}
	before := intercept.Default(contract.ModeTProxy)
	before.ProxyPort, before.AdminPort, before.ProxyUID = 15000, 15001, 4242
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		want        State // as it is found
		mode        contract.Mode
		uid         uint32 // once it has been mended
	}{
		{"by default", nil, Intercepted, contract.ModeTProxy, 4242},
		{"mode by annotation", map[string]string{contract.AnnotationPrefix + "mode": contract.ModeTProxy}, Intercepted, contract.ModeTProxy, 4242},
		{"all by annotation", map[string]string{contract.AnnotationPrefix + "mode": contract.ModeTProxy, contract.AnnotationPrefix + "proxy-uid": "7089"}, Drifted, contract.ModeTProxy, 7089},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := lab.NewNet(t)
			n.Wire()
			if err := intercept.Apply(n.Pod.Path(), before); err != nil {
				t.Fatal(err)
			}
			l := &Looker{Entry: today}
			look := func() Finding {
				f := l.settle("demo", tt.annotations, nil, nil)
				f.Path = n.Pod.Path()
				return l.Compare(t.Context(), f)
			}
			if f := look(); f.State != tt.want {
				t.Errorf("it is found %s: %v", f.State, f.Drift)
			}
			made, ok, err := (&Looker{Entry: []byte("{}")}).Made(n.Pod.Path(), "demo", tt.annotations, nil)
			if !ok || err != nil || made.Mode != tt.mode || made.ProxyUID != tt.uid || made.ProxyPort != 15000 {
				t.Errorf("without a default mode it was made with %+v, %t, %v", made, ok, err)
			}
			n.Pod.Run("nft", "flush", "chain", "inet", "tproxy_cni", "spoofed")
			f := look()
			if f.State != Drifted {
				t.Fatalf("it is found %s", f.State)
			}
			if f = l.Mend(t.Context(), f); f.State != Intercepted || f.Mode != tt.mode || f.Config.ProxyUID != tt.uid || f.Config.ProxyPort != 15000 {
				t.Errorf("mended, it is %s with %+v", f.State, f.Config)
			}
		})
	}
}

// TestExempt: the node's default mode asks nothing of a pod in an exempt namespace, also
// where rules of a default of before are in it; its annotation does.
func TestExempt(t *testing.T) {
	entry, err := settings.NewEntry(map[string]string{"mode": contract.ModeNAT})
	if err != nil {
		t.Fatal(err)
	}
	l := &Looker{Entry: entry}
	if f := l.settle("kube-system", nil, nil, nil); f.State != NotAsked || f.Mode != contract.ModeNone {
		t.Errorf("it is %s, mode %s", f.State, f.Mode)
	}
	if f := l.settle("kube-system", nil, nil, entry); f.State != NotAsked {
		t.Errorf("as it was made it is %s", f.State)
	}
	if f := l.settle("kube-system", map[string]string{contract.AnnotationPrefix + "mode": contract.ModeTProxy}, nil, nil); f.State != "" || f.Mode != contract.ModeTProxy {
		t.Errorf("with its annotation it is %q, mode %s", f.State, f.Mode)
	}
	if f := l.settle("demo", nil, nil, nil); f.Mode != contract.ModeNAT {
		t.Errorf("elsewhere it has mode %s", f.Mode)
	}
}

// TestStates of a pod's namespace.
func TestStates(t *testing.T) {
	lab.Need(t, "nft", "iptables-nft")
	n := lab.NewNet(t)
	n.Wire()
	entry, err := settings.NewEntry(map[string]string{"mode": contract.ModeNAT})
	if err != nil {
		t.Fatal(err)
	}
	l := &Looker{Entry: entry}
	want := func(annotations map[string]string, state State, drift string) Finding {
		t.Helper()
		f := l.settle("demo", annotations, nil, nil)
		f.Path = n.Pod.Path()
		f = l.Compare(t.Context(), f)
		if f.State != state || !strings.Contains(f.Drift.Error(), drift) {
			t.Errorf("it is %s: %v, want %s: %q", f.State, f.Drift, state, drift)
		}
		return f
	}
	asks := map[string]string{contract.AnnotationPrefix + "mode": contract.ModeNAT}
	want(nil, LeftAlone, "table inet tproxy_cni is missing")
	f := want(asks, CameFirst, "table inet tproxy_cni is missing")
	if f = l.Mend(t.Context(), f); f.State != Intercepted {
		t.Errorf("mended, it is %s: %v", f.State, f.Drift)
	}
	want(nil, Intercepted, "")
	n.Pod.Run("nft", "flush", "ruleset")
	want(nil, Drifted, "table inet tproxy_cni is missing") // ip rules are left
	for ok, annotations := range map[bool]map[string]string{true: asks, false: nil} {
		if c, said, err := l.Made(n.Pod.Path(), "demo", annotations, nil); err != nil || said != ok || ok && c.Mode != contract.ModeNAT {
			t.Errorf("without a table it was made with %+v, %t, %v", c, said, err)
		}
	}
	l.Mend(t.Context(), f)
	n.Pod.Run("iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15006")
	want(asks, Contested, "to port 15006, as istio does")
	n.Pod.Run("nft", "flush", "chain", "inet", "tproxy_cni", "spoofed")
	f = want(asks, Drifted, "to port 15006")
	if f = l.Mend(t.Context(), f); f.State != Contested {
		t.Errorf("mended, it is %s: %v", f.State, f.Drift)
	}
	f.Path = "/run/netns/not-there"
	if f = l.Compare(t.Context(), f); f.State != Unknown || f.Err == nil {
		t.Errorf("without a namespace it is %s: %v", f.State, f.Err)
	}
}
