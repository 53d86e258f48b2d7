package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// named is the recipe of that directory.
func named(t *testing.T, dir string) recipe {
	t.Helper()
	for _, r := range recipes {
		if r.dir == dir {
			return r
		}
	}
	t.Fatalf("no recipe %s", dir)
	return recipe{}
}

// TestRecipeByClient: HAProxy's list of refused clients and its limit of each client's
// rate go by the real addresses.
func TestRecipeByClient(t *testing.T) {
	lab.Need(t, "haproxy", "openssl", "unshare")
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
	p.nginx(t)
	p.manySources(t)
	r := named(t, "haproxy-http")
	p.startRecipe(t, r, selfSigned(t), dir(t, contract.ProxyUID))
	blocked := map[string]string{"IPv4": "192.0.2.7", "IPv6": "2001:db8:bad::7"}
	for _, f := range p.fams() {
		p.Client.Run("ip", "route", "add", "local", blocked[f.name], "dev", "lo")
		p.Node.Run("ip", "route", "add", blocked[f.name], "via", f.client)
		for from, want := range map[string]int{blocked[f.name]: 403, f.client: 200} {
			if got, err := p.statuses(r, f, from, 1); err != nil || got[want] != 1 {
				t.Errorf("%s: %s got %v, %v; want %d", f.name, from, got, err, want)
			}
		}
		greedy, modest := f.flooder(1).Addr().String(), f.flooder(2).Addr().String()
		got, err := p.statuses(r, f, greedy, 1_500)
		if err != nil || got[200] < 900 || got[429] < 400 {
			t.Errorf("%s: a greedy client got %v, %v; want 1000 answers and then 429", f.name, got, err)
		}
		if got, err := p.statuses(r, f, modest, 1); err != nil || got[200] != 1 {
			t.Errorf("%s: another client got %v, %v", f.name, got, err)
		}
	}
}

// statuses makes n requests on one connection, or as many as it takes, and counts the
// answers.
func (p *pod) statuses(r recipe, f family, from string, n int) (map[int]int, error) {
	counts := map[int]int{}
	for sum := 0; sum < n; {
		k, err := p.statusesOn(r, f, from, n-sum, counts)
		if err != nil {
			return counts, err
		}
		sum += k
	}
	return counts, nil
}

func (p *pod) statusesOn(r recipe, f family, from string, n int, counts map[int]int) (k int, err error) {
	conn, err := p.dialThrough(r, f, from)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for k < n {
		resp, _, err := requestOn(conn, in)
		if err != nil {
			return k, err
		}
		counts[resp.StatusCode]++
		k++
		if resp.Close {
			break
		}
	}
	return k, nil
}

// requestOn makes a request on a connection that stays open and returns the body.
func requestOn(conn net.Conn, in *bufio.Reader) (*http.Response, string, error) {
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: pod\r\n\r\n"); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	var body strings.Builder
	_, err = bufio.NewReader(resp.Body).WriteTo(&body)
	return resp, body.String(), err
}

// TestPooling: with a pool of connections to the application, nginx sends one client's
// request from another's address; the recipes and our sidecar do not.
func TestPooling(t *testing.T) {
	lab.Need(t, "haproxy", "nginx", "openssl", "unshare")
	certs := selfSigned(t)
	pooled := recipe{dir: "pooled", command: []string{"nginx", "-e", "stderr", "-c", "/srv/proxy/nginx.conf"}}
	sidecar := recipe{dir: "our sidecar"}
	for _, r := range []recipe{pooled, sidecar, named(t, "haproxy-http"), named(t, "nginx-http"), named(t, "haproxy-tcp")} {
		t.Run(r.dir, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
			p.nginx(t)
			d := dir(t, contract.ProxyUID)
			switch r.dir {
			case sidecar.dir:
				p.start()
			case pooled.dir:
				p.runConfig(t, r, pooledConfig(t), certs, d)
			default:
				p.startRecipe(t, r, certs, d)
			}
			for _, f := range p.fams() {
				wrong, err := p.mixed(t, r, f, 40)
				if err != nil || (wrong > 0) != (r.dir == pooled.dir) {
					t.Errorf("%s: in %d of 80 requests the application saw the other client, %v", f.name, wrong, err)
				}
			}
		})
	}
}

// pooledConfig is the recipe nginx-http with a pool, and without TLS.
func pooledConfig(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../k8s/proxies/nginx-http/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	change := strings.NewReplacer(" ssl;", ";",
		"\t\tssl_certificate /srv/tls/tls.crt;\n", "", "\t\tssl_certificate_key /srv/tls/tls.key;\n", "",
		"proxy_pass http://$application;", "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass http://pool;",
		"\tserver {\n\t\tlisten 5000", fmt.Sprintf("\tupstream pool { server %s; keepalive 16; }\n\tserver {\n\t\tlisten 5000", addr(v4.pod, webPort)))
	d := dir(t, 0)
	write(t, filepath.Join(d, "nginx.conf"), change.Replace(string(text)))
	return d
}

// mixed lets two clients make n requests each in turn, each on its one connection, and
// counts those that the application saw come from another address.
func (p *pod) mixed(t *testing.T, r recipe, f family, n int) (wrong int, err error) {
	t.Helper()
	type client struct {
		addr string
		conn net.Conn
		in   *bufio.Reader
	}
	clients := []*client{{addr: f.client}, {addr: f.other}}
	for _, c := range clients {
		if c.conn, err = p.dialThrough(r, f, c.addr); err != nil {
			return 0, err
		}
		defer c.conn.Close()
		c.in = bufio.NewReader(c.conn)
	}
	for range n {
		for _, c := range clients {
			_, body, err := requestOn(c.conn, c.in)
			if err != nil {
				return wrong, err
			}
			if saw, _, _ := strings.Cut(body, " "); saw != c.addr {
				wrong++
			}
		}
	}
	return wrong, nil
}
