package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// recipe is a directory of k8s/proxies: another proxy in place of our sidecar, with a
// configuration that the tests run as it stands.
type recipe struct {
	dir     string
	proxy   string
	command []string       // as in the manifest, if empty
	helper  []string       // arguments of our sidecar, if it helps; as in the manifest
	reload  syscall.Signal // 0: it has none without loss
	tls     bool
	http    bool // to the application it speaks HTTP
}

var recipes = []recipe{
	{dir: "haproxy-tcp", proxy: "HAProxy", reload: syscall.SIGUSR2},
	{dir: "haproxy-http", proxy: "HAProxy", reload: syscall.SIGUSR2, tls: true, http: true},
	{dir: "nginx-stream", proxy: "nginx", reload: syscall.SIGHUP},
	{dir: "nginx-http", proxy: "nginx", reload: syscall.SIGHUP, tls: true, http: true},
	{dir: "stunnel", proxy: "stunnel", tls: true},
	{dir: "hitch-helper", proxy: "hitch", tls: true},
}

// manyThrough is how many connections of each family go through a recipe.
var manyThrough = lab.Count(2_500)

// TestRecipes runs each configuration without capabilities and compares what it does with
// its line in k8s/proxies/README.md.
func TestRecipes(t *testing.T) {
	lab.Need(t, "haproxy", "nginx", "stunnel", "hitch", "openssl", "socat", "unshare")
	table, err := os.ReadFile("../k8s/proxies/README.md")
	if err != nil {
		t.Fatal(err)
	}
	certs := selfSigned(t)
	for _, r := range recipes {
		t.Run(r.dir, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
			line := p.tryRecipe(t, r, certs)
			if !t.Failed() && !strings.Contains(string(table), line) {
				t.Errorf("k8s/proxies/README.md lacks this line of its table:\n%s", line)
			}
		})
	}
}

// tryRecipe returns the recipe's line of the table.
func (p *pod) tryRecipe(t *testing.T, r recipe, certs string) string {
	d := dir(t, contract.ProxyUID)
	_, app := p.nginx(t)
	p.manySources(t)
	proxy := p.startRecipe(t, r, certs, d)
	facts := []string{fmt.Sprintf("[%s](%[1]s)", r.dir), r.proxy}
	say := func(f string, a ...any) { facts = append(facts, fmt.Sprintf(f, a...)) }

	exact := 0
	for _, f := range p.fams() {
		exact += p.through(t, r, f, manyThrough)
	}
	say("the client's")
	say("%s", map[bool]string{true: "the client's", false: "another"}[exact == len(p.fams())*manyThrough])

	if r.reload == 0 {
		say("loses some")
	} else {
		for range 3 { // while connections are being made
			proxy.Signal(r.reload)
			for _, f := range p.fams() {
				p.through(t, r, f, lab.Count(200))
			}
		}
		say("loses none")
	}

	app.Kill()
	for _, f := range p.fams() {
		if _, saw, err := p.peerThrough(r, f, f.client); err == nil {
			t.Errorf("%s: without the application a client was served, as %s", f.name, saw)
		}
	}

	if r.http {
		say("of HTTP")
	} else {
		p.Pod.StartAs(lab.User{UID: appUID, NoNewPrivs: true},
			"socat", fmt.Sprintf("TCP6-LISTEN:%d,fork,reuseaddr,ipv6only=0", webPort), "SYSTEM:wc -c").WaitListen(webPort)
		answers := map[string]int{}
		for _, f := range p.fams() {
			got, err := p.count(t, r, f)
			if err != nil {
				t.Errorf("%s: after the client's FIN: %v", f.name, err)
			}
			answers[strings.TrimSpace(got)]++
		}
		switch {
		case answers["100000"] == len(p.fams()):
			say("passed on")
		case answers[""] == len(p.fams()):
			say("ends the connection")
		default:
			t.Errorf("after the client's FIN the application answered %v; want 100000 or nothing", answers)
		}
	}

	p.killGroup(t, proxy)
	for _, f := range p.fams() {
		wantRefused(t, end{p.Client, f.client}, addr(f.pod, webPort))
	}
	say("refused")
	return "| " + strings.Join(facts, " | ") + " |"
}

// startRecipe runs the proxy as the sidecar's user without a capability, where the
// manifest mounts its files: in a mount namespace of its own.
func (p *pod) startRecipe(t *testing.T, r recipe, certs, d string) *lab.Proc {
	t.Helper()
	config, err := filepath.Abs("../k8s/proxies/" + r.dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(config, "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	words := func(key string) []string { // of the last init container that has it
		all := regexp.MustCompile(`(?m)^        `+key+`: \[(.*)\]$`).FindAllSubmatch(manifest, -1)
		if len(all) == 0 {
			return nil
		}
		return strings.Split(strings.ReplaceAll(string(all[len(all)-1][1]), `"`, ""), ", ")
	}
	r.command, r.helper = words("command"), words("args") // of the proxy, and of our sidecar if it helps
	if module := "/usr/lib/nginx/modules/ngx_stream_module.so"; r.dir == "nginx-stream" {
		r.command = append(r.command, "-g", "load_module "+module+";") // the image that the manifest names has it built in
	}
	return p.runConfig(t, r, config, certs, d)
}

// runConfig is startRecipe with the configuration of a directory.
func (p *pod) runConfig(t *testing.T, r recipe, config, certs, d string) *lab.Proc {
	t.Helper()
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	helper := ":"
	if len(r.helper) > 0 {
		args := user.Args(append([]string{"/srv/tproxy-proxy"}, r.helper...)...)
		helper = "cp " + bin(t, "tproxy-proxy") + " " + d + "; " + strings.Join(args, " ") + " & while ! [ -S /srv/run/helper.sock ]; do sleep 0.01; done"
	}
	mounts := fmt.Sprintf(`set -e
		mkdir -p %[3]s/proxy %[3]s/tls %[3]s/run
		cp %[1]s/* %[3]s/proxy; cp %[2]s/* %[3]s/tls; chown -R %[4]d %[3]s
		mount --bind %[3]s /srv
		chown %[4]d /proc/self/fd/1 # as the runtime does: nginx opens /dev/stdout
		cd /; %[5]s
		mount -t tmpfs -o mode=1777 tmpfs /tmp
		exec "$@"`, config, certs, d, contract.ProxyUID, helper)
	args := append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh"}, user.Args(r.command...)...)
	return p.Pod.Start(args...).WaitListen(contract.ProxyPort)
}

// killGroup ends a proxy and its workers at once.
func (p *pod) killGroup(t *testing.T, proxy *lab.Proc) {
	t.Helper()
	lab.Eventually(t, "no process of the proxy", func() error {
		_ = syscall.Kill(-proxy.Pid(), syscall.SIGKILL)
		ok, err := p.Pod.Listening(contract.ProxyPort)
		if ok {
			err = errors.New("something listens on its port")
		}
		return err
	})
}

// through makes n connections from many addresses and returns in how many
// the application saw the client's port. The address is right in all of them.
func (p *pod) through(t *testing.T, r recipe, f family, n int) (ports int) {
	t.Helper()
	const workers = 8
	var exact, failed atomic.Int64
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n; i += workers {
				from := f.flooder(i % 250).Addr().String()
				mine, saw, err := p.peerThrough(r, f, from)
				if err != nil || saw.Addr() != mine.Addr() {
					if failed.Add(1) < 4 {
						t.Errorf("%s: connection %d from %s: the application saw %s: %v", f.name, i, mine, saw, err)
					}
				}
				if saw == mine {
					exact.Add(1)
				}
			}
		})
	}
	all.Wait()
	if k := failed.Load(); k > 0 {
		t.Errorf("%s: %d of %d connections went wrong", f.name, k, n)
	}
	return int(exact.Load())
}

// count sends 100,000 bytes and the FIN, and returns what comes then.
func (p *pod) count(t *testing.T, r recipe, f family) (string, error) {
	t.Helper()
	conn, err := p.dialThrough(r, f, f.client)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err = conn.Write(make([]byte, 100_000)); err == nil {
		err = conn.(interface{ CloseWrite() error }).CloseWrite()
	}
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// dialThrough is a client of the recipe's.
func (p *pod) dialThrough(r recipe, f family, from string) (net.Conn, error) {
	conn, err := p.Client.Dial("tcp", from, addr(f.pod, webPort))
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	if r.tls {
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}), nil
	}
	return conn, nil
}
