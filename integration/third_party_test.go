package integration

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestNginxAsSidecar: Debian's nginx in place of our sidecar, as its user and
// without any capability. It marks nothing and is told where to connect to,
// because it cannot ask for the original destination.
func TestNginxAsSidecar(t *testing.T) {
	lab.Need(t, "nginx")
	modules, _ := filepath.Glob("/usr/lib/nginx/modules/ngx_stream_module.so")
	if len(modules) == 0 {
		lab.Need(t, "nginx's stream module (libnginx-mod-stream)")
	}
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
`, modules[0], d, contract.ProxyPort, addr(v4.pod, webPort), addr(v6.pod, webPort)))
	p.Pod.StartAs(lab.User{UID: contract.ProxyUID, NoNewPrivs: true}, "nginx", "-e", "stderr", "-c", conf).
		WaitListen(contract.ProxyPort)
	p.inFamilies(t, p.wantExact)
}
