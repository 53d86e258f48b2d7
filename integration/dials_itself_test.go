package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// haproxyToItself is HAProxy with a server entry that is its own port: with the mode's
// word for the listener and the pod's addresses.
const haproxyToItself = `
global
	maxconn 50
defaults
	mode tcp
	log stdout format raw daemon
	option tcplog
	retries 0
	timeout connect 1m
	timeout client 1m
	timeout server 1m
listen v4
	bind 0.0.0.0:%[1]d %[2]s
	source 0.0.0.0 usesrc client
	server itself %[3]s:%[1]d
listen v6
	bind [::]:%[1]d v6only %[2]s
	source [::] usesrc client
	server itself [%[4]s]:%[1]d
`

const nginxToItself = `
load_module %[1]s;
daemon off; master_process off; pid %[2]s/pid; error_log stderr info;
events { worker_connections 50; }
stream {
	server { listen %[3]d; proxy_pass 127.0.0.1:%[3]d; }
	server { listen [::]:%[3]d ipv6only=on; proxy_pass [::1]:%[3]d; }
}
`

// TestDialsItself: a proxy in the sidecar's place whose configuration leads to its own
// port is refused at its first dial, in a client's name or in its own, and ends the
// client's connection. It would be its own client until it has no sockets left.
func TestDialsItself(t *testing.T) {
	lab.Need(t, "haproxy", "nginx")
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.nginx(t) // what the client asks for
		d := dir(t, contract.ProxyUID)
		for _, proxy := range []struct {
			name  string
			start func() *lab.Proc
			from  *lab.NS
			to    func(family) string
			says  string
		}{
			{
				"HAProxy from the client's address", func() *lab.Proc {
					transparent := map[string]string{contract.ModeTProxy: "transparent"}[p.mode]
					conf := write(t, filepath.Join(d, "haproxy.cfg"), fmt.Sprintf(haproxyToItself, contract.ProxyPort, transparent, v4.pod, v6.pod))
					spoofer := user
					spoofer.Caps = []string{"net_raw"} // HAProxy cannot spoof without, in either mode
					args := spoofer.Args("haproxy", "-db", "-f", conf)
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Dir = d // to which it returns: a checkout below /root is closed to it
					return p.Pod.StartCmd(cmd)
				},
				p.Client, func(f family) string { return addr(f.pod, webPort) },
				" SC ", // could not connect to the server
			},
			{
				"nginx from its own address", func() *lab.Proc {
					conf := write(t, filepath.Join(d, "nginx.conf"), fmt.Sprintf(nginxToItself, streamModule(t), d, contract.ProxyPort))
					return p.Pod.StartAs(user, "nginx", "-e", "stderr", "-c", conf)
				},
				// From within the pod: in tproxy mode nginx, whose listener is not
				// transparent, gets no client from outside.
				p.Pod, func(f family) string { return addr(f.lo, contract.ProxyPort) },
				"connect() failed (111: Connection refused)",
			},
		} {
			t.Run(proxy.name, func(t *testing.T) {
				proc := proxy.start().WaitListen(contract.ProxyPort)
				defer func() { proc.Kill(); <-proc.Done() }()
				p.inFamilies(t, func(t *testing.T, f family) {
					before := p.counters(t)["loop_refused"]
					conn, err := proxy.from.Dial("tcp", "", proxy.to(f))
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(lab.Patience))
					if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the client read %q, %v; want its connection to end", got, err)
					}
					if n := p.counters(t)["loop_refused"] - before; n != 1 {
						t.Errorf("%d dials refused, want one", n)
					}
				})
				proc.WaitLog(proxy.says)
			})
		}
	})
}
