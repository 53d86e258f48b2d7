package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// release is whose programs a test uses: those under test, or the release's before.
type release struct{ before bool }

var (
	newer = release{}
	older = release{before: true}
)

func (r release) String() string {
	if r.before {
		return "old"
	}
	return "new"
}

// other is the other of the two.
func (r release) other() release { return release{!r.before} }

// dir is where its programs are. Without git's history a test is skipped, but fails
// where CI is set.
func (r release) dir(t *testing.T) string {
	t.Helper()
	if !r.before {
		return filepath.Dir(bin(t, contract.PluginType))
	}
	dir, err := previous()
	switch {
	case errors.Is(err, programs.ErrNoHistory) && os.Getenv("CI") == "":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	return dir
}

func (r release) bin(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(r.dir(t), name)
}

// TestSkew has each release's sidecar in pods that each release's plugin programmed. What
// it finds is the table of docs/UPGRADE.md.
func TestSkew(t *testing.T) {
	page, err := os.ReadFile("../docs/UPGRADE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, plugin := range []release{older, newer} {
		for _, proxy := range []release{older, newer} {
			t.Run(fmt.Sprintf("%v plugin, %v sidecar", plugin, proxy), func(t *testing.T) {
				inModes(t, setup{plugin: plugin, proxy: proxy}, func(t *testing.T, p *pod) {
					p.nginx(t)
					p.inFamilies(t, p.wantExact)
					row := fmt.Sprintf("| %s | %s | yes | yes | %s | %s |", plugin.column(), proxy.column(),
						p.verdict(t, older), p.verdict(t, newer))
					if !t.Failed() && !strings.Contains(string(page), row+"\n") {
						t.Errorf("docs/UPGRADE.md has no line %s", row)
					}
				})
			})
		}
	}
}

// column is how docs/UPGRADE.md calls a release.
func (r release) column() string {
	if r.before {
		return programs.Previous().Version
	}
	return "this"
}

// verdict is what CHECK by a release's plugin says of the pod.
func (p *pod) verdict(t *testing.T, by release) string {
	t.Helper()
	out, err := p.try(t, by, "CHECK")
	switch {
	case err == nil:
		return "passes"
	case strings.Contains(out, `"code": 102`) && strings.Contains(out, "earlier version of the plugin has programmed this pod"):
		return "earlier version"
	case strings.Contains(out, `"code": 102`):
		return "drift"
	}
	return out
}

// wantCheck has each release's plugin check a pod that one of them has programmed: the
// other names what differs.
func (p *pod) wantCheck(t *testing.T, by release) {
	t.Helper()
	if out, err := p.try(t, by, "CHECK"); err != nil {
		t.Errorf("CHECK by the %v plugin, which programmed the pod: %s", by, out)
	}
	if out, err := p.try(t, by.other(), "CHECK"); err == nil || !strings.Contains(out, `"code": 102`) || !strings.Contains(out, " is missing") {
		t.Errorf("CHECK by the %v plugin of a pod that the %v one programmed: %v %s", by.other(), by, err, out)
	}
}

// TestSkewDel: DEL by the other release's plugin leaves the pod as the plugins before it
// made it.
func TestSkewDel(t *testing.T) {
	for _, by := range []release{older, newer} {
		for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
			t.Run(by.String()+" "+mode, func(t *testing.T) {
				t.Parallel()
				p := prepare(t, setup{bare: true, plugin: by})
				p.Pod.Up()
				p.add() // without a mode: the chain's own work
				before := p.snapshot(t)
				p.mode = mode
				p.ours(t, "ADD")
				if out, err := p.try(t, by.other(), "DEL"); err != nil || out != "" {
					t.Fatal(out)
				}
				after := p.snapshot(t)
				if by == newer && programs.Previous().Version == "v0.1.0" {
					for _, what := range leftByFirst {
						delete(before, what)
						delete(after, what)
					}
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("after DEL: %s", diff)
				}
			})
		}
	}
}

// leftByFirst is what v0.1.0 leaves in a namespace that is about to end: it does not know
// routes of a protocol of their own and what makes rules of them, the interface's group,
// and that early demux is off on every kernel.
var leftByFirst = []string{
	"ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all",
	"ip -4 link", "ip -6 link", "/proc/sys/net/ipv4/tcp_early_demux",
}

// TestSkewInPlace programs a pod anew, by the plugin of each release in turn, while
// clients make 200 connections a second over each family, and others hold theirs: as
// another ADD and the installer's --repair do. Nothing is lost.
func TestSkewInPlace(t *testing.T) {
	lab.Need(t, "h2load", "socat")
	for _, proxy := range []release{older, newer} {
		t.Run(fmt.Sprintf("%v sidecar", proxy), func(t *testing.T) {
			inModes(t, setup{plugin: older, proxy: proxy}, func(t *testing.T, p *pod) {
				p.nginx(t)
				done := p.load(t)
				adds := 0
				for by := newer; !done(adds >= 4); by = by.other() {
					if out, err := p.try(t, by, "ADD"); err != nil {
						t.Fatalf("ADD by the %v plugin: %s", by, out)
					}
					adds++
				}
				t.Logf("%d times ADD under load", adds)
				for _, by := range []release{older, newer} {
					if out, err := p.try(t, by, "ADD"); err != nil {
						t.Fatalf("ADD by the %v plugin: %s", by, out)
					}
					p.wantCheck(t, by)
					p.inFamilies(t, p.wantExact)
					p.waitReady()
				}
				if log := p.sidecar.Output(); strings.Contains(log, "not ready") {
					t.Errorf("the sidecar says\n%s", log)
				}
			})
		})
	}
}

// TestSkewSettings: each release refuses a setting that it does not know, in the node's
// entry and in an annotation, and names it. A guard that a later release adds is never
// left out in silence.
func TestSkewSettings(t *testing.T) {
	for _, by := range []release{older, newer} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{bare: true})
			p.mode, p.entry = contract.ModeNAT, map[string]any{"ofLater": true}
			if out, err := p.try(t, by, "ADD"); err == nil || !strings.Contains(out, "conflist key ofLater true: unknown") {
				t.Errorf("a setting of a later release in the entry: %v %s", err, out)
			}
			p.entry, p.annotations = nil, map[string]string{"of-later": "yes"}
			if out, err := p.try(t, by, "ADD"); err == nil || !strings.Contains(out, contract.AnnotationPrefix+"of-later") {
				t.Errorf("an annotation of a later release: %v %s", err, out)
			}
			if out, err := p.try(t, by, "DEL"); err != nil {
				t.Error(out)
			}
		})
	}
}
