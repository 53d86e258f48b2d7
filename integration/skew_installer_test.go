package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestSkewInstaller upgrades a node's installer and rolls it back, as a DaemonSet does,
// while pods are attached one after the other: every ADD and DEL succeeds, and the
// node has what the last installer brought.
func TestSkewInstaller(t *testing.T) {
	t.Parallel()
	older.dir(t) // may skip
	plugins := dir(t, 0)
	for _, name := range []string{"cnitool", "ptp", "host-local"} {
		data, err := os.ReadFile(bin(t, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(plugins, name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cni := lab.NewCNI(t, lab.Conflist{Version: "1.0.0"}, plugins)
	net := lab.NewNet(t)
	pod := lab.Attachment{CNI: cni, Node: net.Node, Pod: net.Pod, Capabilities: map[string]any{
		contract.AnnotationsCapability: map[string]string{contract.AnnotationPrefix + "mode": contract.ModeNAT},
	}}
	var installer *lab.Proc
	install := func(r release) {
		if installer != nil {
			if err := installer.Stop(); err != nil {
				t.Errorf("the installer ended with %v", err)
			}
		}
		installer = net.Node.Start(r.bin(t, "tproxy-install"), "install", "--preflight=false",
			"--cni-conf-dir="+cni.Dir(), "--cni-bin-dir="+plugins)
		lab.Eventually(t, "the "+r.String()+" installer ready", func() error {
			status, text, err := net.Node.Get("http://127.0.0.1:17089/readyz")
			if err == nil && status != 200 {
				err = fmt.Errorf("%d %s", status, text)
			}
			return err
		})
		out := net.Node.Run(filepath.Join(plugins, contract.PluginType), "--version")
		want := net.Node.Run(r.bin(t, contract.PluginType), "--version")
		if out != want {
			t.Errorf("after the %v installer the node has %s, want %s", r, out, want)
		}
	}
	install(older)

	var rounds atomic.Int64
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			for _, verb := range []string{"add", "del"} { // a CHECK may be another release's than the ADD
				if out, err := pod.Try(verb); err != nil {
					ended <- fmt.Errorf("%s: %w: %s", verb, err, out)
					return
				}
			}
			rounds.Add(1)
			select {
			case <-stop:
				ended <- nil
				return
			default:
			}
		}
	}()
	more := func() {
		n := rounds.Load()
		lab.Eventually(t, "more pods", func() error {
			select {
			case err := <-ended:
				t.Fatalf("after %d pods: %v", rounds.Load(), err)
			default:
			}
			if rounds.Load() < n+3 {
				return fmt.Errorf("%d, then %d", n, rounds.Load())
			}
			return nil
		})
	}
	more()
	for range 2 {
		for _, r := range []release{newer, older} {
			install(r)
			more()
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Logf("%d pods", rounds.Load())
}
