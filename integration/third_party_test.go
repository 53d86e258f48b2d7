package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestNginxAsSidecar: Debian's nginx in place of our sidecar, as its user and without
// capabilities. It sets no mark, and its upstream is configured because it cannot query
// the original destination.
func TestNginxAsSidecar(t *testing.T) {
	lab.Need(t, "nginx")
	module := streamModule(t)
	t.Parallel()
	p := newPod(t, setup{mode: contract.ModeNAT, bare: true})
	p.nginx(t)
	d := dir(t, contract.ProxyUID)
	conf := write(t, filepath.Join(d, "nginx.conf"), fmt.Sprintf(`
load_module %[1]s;
daemon off; master_process off; pid %[2]s/pid; error_log stderr info;
events {}
stream {
	server { listen %[3]d; proxy_bind $remote_addr:$remote_port; proxy_pass %[4]s; }
	server { listen [::]:%[3]d ipv6only=on; proxy_bind [$remote_addr]:$remote_port; proxy_pass %[5]s; }
}
`, module, d, contract.ProxyPort, addr(v4.pod, webPort), addr(v6.pod, webPort)))
	p.Pod.StartAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true}, "nginx", "-e", "stderr", "-c", conf).
		WaitListen(contract.ProxyPort)
	p.inFamilies(t, p.wantExact)
}

// streamModule is the path of nginx's module for TCP.
func streamModule(t *testing.T) string {
	t.Helper()
	modules, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so")
	if len(modules) == 0 {
		lab.Need(t, "nginx's stream module (libnginx-mod-stream)")
	}
	return modules[0]
}
