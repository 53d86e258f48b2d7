package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestLoadBalancers: behind HAProxy and nginx on the node, which send PROXY headers of
// both versions, the application sees the client's exact address and port in both modes
// and families, also where the balancer reaches the pod by the other family. A client
// that is not trusted is served as ever.
func TestLoadBalancers(t *testing.T) {
	lab.Need(t, "haproxy", "nginx")
	annotations := map[string]string{"proxy-protocol-from": v4.gateway + "/32," + v6.gateway + "/128"}
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{mode: mode, bare: true, annotations: annotations})
			p.start("--proxy-protocol-from", annotations["proxy-protocol-from"])
			p.nginx(t)
			var haproxy, nginx strings.Builder
			port := 9000
			ports := map[string][]int{}
			for _, f := range p.fams() {
				for _, to := range p.fams() {
					for _, header := range []string{"send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"} {
						port++
						fmt.Fprintf(&haproxy, "listen l%d\n\tbind %s\n\tunique-id-format %%ci\n\tserver app %s %s\n", port, addr(f.node, port), addr(to.pod, webPort), header)
						ports[f.name] = append(ports[f.name], port)
					}
					port++
					fmt.Fprintf(&nginx, "server { listen %s; proxy_pass %s; proxy_protocol on; }\n", addr(f.node, port), addr(to.pod, webPort))
					ports[f.name] = append(ports[f.name], port)
				}
			}
			d := dir(t, appUID)
			conf := write(t, filepath.Join(d, "haproxy.cfg"), "defaults\n\tmode tcp\n\ttimeout connect 20s\n\ttimeout client 20s\n\ttimeout server 20s\n"+haproxy.String())
			p.Node.StartAs(app, "env", "-C", "/", "haproxy", "-db", "-f", conf).WaitListen(9001)
			p.Node.StartAs(app, "nginx", "-e", "stderr", "-c", nginxStream(t, d, nginx.String())).WaitListen(9004)
			p.inFamilies(t, func(t *testing.T, f family) {
				for _, port := range ports[f.name] {
					conn, err := p.Client.Dial("tcp", f.client, addr(f.node, port))
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(lab.Patience))
					if saw, err := ask(conn); err != nil || saw != conn.LocalAddr().String() {
						t.Errorf("port %d: the application saw %s (%v), the client is %s", port, saw, err, conn.LocalAddr())
					}
				}
				p.wantExact(t, f)
			})
		})
	}
}

// TestFronts: proxies that end TLS in the pod, and can only send a PROXY header, hand
// connections over on the sidecar's socket; an application without TLS sees the client's
// exact address and port. None of them has a capability.
func TestFronts(t *testing.T) {
	const stunnelPort, hitchPort, nginxPort = 8441, 8442, 8443
	lab.Need(t, "stunnel", "hitch", "nginx", "curl")
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPod(t, setup{mode: mode, bare: true, annotations: map[string]string{"exclude-inbound-ports": "8441-8443"}})
			d := dir(t, contract.ProxyUID)
			socket := filepath.Join(d, "front.sock")
			p.start("--accept-proxy", "unix:"+socket, "--accept-proxy-to", fmt.Sprint(webPort))
			p.nginx(t)

			cert := certificate(t, d)
			text := "foreground = yes\nsyslog = no\npid =\ncert = " + cert + "\n"
			for _, f := range p.fams() { // with one listener for both it would name IPv4 clients in the form of IPv6
				text += fmt.Sprintf("[tls %s]\naccept = %s:%d\nconnect = %s\nprotocol = proxy\n", f.name, f.pod, stunnelPort, socket)
			}
			conf := write(t, filepath.Join(d, "stunnel.conf"), text)
			p.Pod.StartAs(user, "stunnel", conf).WaitListen(stunnelPort)
			p.Pod.StartAs(user, "hitch", fmt.Sprintf("--frontend=[*]:%d", hitchPort), "--backend="+socket, "--write-proxy-v2", cert).WaitListen(hitchPort)
			p.Pod.StartAs(user, "nginx", "-e", "stderr", "-c", nginxStream(t, d, fmt.Sprintf(
				"server { listen %[1]d ssl; listen [::]:%[1]d ssl; ssl_certificate %[2]s; ssl_certificate_key %[2]s; proxy_pass unix:%[3]s; proxy_protocol on; }",
				nginxPort, cert, socket))).WaitListen(nginxPort)
			p.inFamilies(t, func(t *testing.T, f family) {
				for _, port := range []int{stunnelPort, hitchPort, nginxPort} {
					p.wantExactTLS(t, f, port)
				}
			})
		})
	}
}

// TestFrontInFront: hitch has the proxy port, with the configuration of its recipe, and our
// sidecar is only its helper.
func TestFrontInFront(t *testing.T) {
	lab.Need(t, "hitch", "nginx", "curl")
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
	d := dir(t, contract.ProxyUID)
	recipe, err := os.ReadFile("../k8s/proxies/hitch-helper/hitch.conf")
	if err != nil {
		t.Fatal(err)
	}
	cert := certificate(t, d)
	text := strings.NewReplacer("/srv/run/", d+"/", "/srv/tls/tls.crt", cert, "/srv/tls/tls.key", cert).Replace(string(recipe))
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	p.sidecar = p.Pod.StartAs(user, bin(t, "tproxy-proxy"), "--mode=nat", "--addr=127.0.0.1:5002",
		"--accept-proxy=unix:"+d+"/helper.sock", "--accept-proxy-to="+fmt.Sprint(webPort)).WaitLog("ready: ")
	p.Pod.StartAs(user, "hitch", "--config="+write(t, filepath.Join(d, "hitch.conf"), text)).WaitListen(contract.ProxyPort)
	p.nginx(t)
	p.inFamilies(t, func(t *testing.T, f family) { p.wantExactTLS(t, f, webPort) })
}

// wantExactTLS has curl ask nginx, behind a proxy that ends TLS on the port.
func (p *pod) wantExactTLS(t *testing.T, f family, port int) {
	t.Helper()
	out := p.Client.Run("curl", "-sSk", "-w", "%{local_ip} %{local_port}\n", "--interface", f.client, "https://"+addr(f.pod, port)+"/")
	if saw, mine, _ := strings.Cut(strings.TrimSpace(out), "\n"); saw != mine || saw == "" {
		t.Errorf("port %d: the application saw %q, the client is %q", port, saw, mine)
	}
}

// nginxStream writes the configuration of an nginx with these TCP servers.
func nginxStream(t *testing.T, dir, servers string) (path string) {
	t.Helper()
	modules, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so")
	if len(modules) == 0 {
		lab.Need(t, "nginx's stream module (libnginx-mod-stream)")
	}
	return write(t, filepath.Join(dir, "stream.conf"), fmt.Sprintf(`
load_module %s;
daemon off; master_process off; pid %s/stream.pid; error_log stderr error;
events {}
stream {
	%s
}
`, modules[0], dir, servers))
}

// certificate makes a certificate and its key in one file.
func certificate(t *testing.T, dir string) (path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"app.example"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))+
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
}
