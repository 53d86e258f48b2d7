package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPrograms has third-party programs behind one sidecar. Each shows the client's
// address in its own way: nginx in its access log, Redis in CLIENT LIST, agnhost (the
// server of Kubernetes' own tests of client addresses) in its response; PostgreSQL
// admits one client by pg_hba.conf.
func TestPrograms(t *testing.T) {
	t.Parallel()
	postgres, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(postgres) == 0 {
		t.Fatal("no PostgreSQL in /usr/lib", err)
	}
	agnhost := binDir + "/agnhost"
	image := packed(t, postgres[0], agnhost)
	ns := newNamespace(t)
	ns.apply(pod{name: "client", node: 2, image: image}.yaml(t), pod{name: "stranger", node: 1, image: image}.yaml(t))
	ns.ready("client", "stranger")
	client := ns.addrs("pod/client")
	for _, mode := range modes {
		p := server(mode, 1, mode)
		p.image, p.restricted = image, true // PostgreSQL refuses root
		p.container += ", command: [" + agnhost + ", netexec, --http-port=8080, --udp-port=-1]"
		p.args = nil
		for name, command := range map[string]string{
			"nginx": "/usr/sbin/nginx, -c, /nginx.conf",                                                               // 8081
			"redis": `/usr/bin/redis-server, --port, "8082", --bind, "*", "-::*", --protected-mode, "no", --save, ""`, // in /tmp it may write
			"hba":   "/bin/sh, /start-postgres",                                                                       // 8083
		} {
			p.containers = append(p.containers, fmt.Sprintf("{name: %s, image: %s, command: [%s], workingDir: /tmp, "+
				"securityContext: {runAsUser: 1000}, readinessProbe: {tcpSocket: {port: %d}, periodSeconds: 1}, "+
				`env: [{name: ALLOWED, value: "%s/32 %s/128"}]}`,
				name, image, command, map[string]int{"nginx": 8081, "redis": 8082, "hba": 8083}[name], client[0], client[1]))
		}
		ns.apply(p.yaml(t))
	}
	ns.ready(modes...)
	for _, mode := range modes {
		for i, ip := range ns.addrs("pod/" + mode) {
			host, want := net.JoinHostPort(ip.String(), ""), net.JoinHostPort(client[i].String(), "")
			psql := fmt.Sprintf("%s/psql -h %s -p 8083 -U user -d postgres -Atc 'select inet_client_addr()' 2>&1", postgres[0], ip)
			out := ns.kubectl("exec", "client", "--", "/bin/sh", "-c", `
				echo agnhost $(/usr/bin/curl -sS -w ' %{local_port}' http://`+host+`8080/clientip)
				echo redis $(/usr/bin/redis-cli -h `+ip.String()+` -p 8082 client list)
				echo postgres $(`+psql+`)
				/usr/bin/curl -sS http://`+host+`8081/of-`+mode)
			seen := map[string]string{}
			for line := range strings.Lines(out) {
				name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
				seen[name] = text
			}
			if addr, port, _ := strings.Cut(seen["agnhost"], " "); !strings.HasPrefix(addr, want) || mode == "nat" && addr != want+port {
				t.Errorf("%s: agnhost saw %s, the client is %s%s", mode, addr, want, port)
			}
			if !strings.Contains(seen["redis"], " addr="+want) {
				t.Errorf("%s: no addr=%s in Redis' list of clients: %s", mode, want, seen["redis"])
			}
			if seen["postgres"] != client[i].String() {
				t.Errorf("%s: to PostgreSQL the client is %q, want %s", mode, seen["postgres"], client[i])
			}
			await(t, time.Minute, "access log", func() error {
				want := client[i].String() + " asked for /of-" + mode
				if log := ns.log(mode, "nginx"); !strings.Contains(log, want) {
					return fmt.Errorf("no %q in\n%s", want, log)
				}
				return nil
			})
			out, err := ns.try("exec", "stranger", "--", "/bin/sh", "-c", psql)
			if err == nil || !strings.Contains(out, "no pg_hba.conf entry for host") {
				t.Errorf("%s: PostgreSQL answered another client: %q, %v", mode, out, err)
			}
		}
	}
}

// packed makes an image of programs of this machine, with the files that they need and
// a user, and loads it on the nodes. Without a command it waits.
func packed(t *testing.T, postgres, agnhost string) string {
	t.Helper()
	version := filepath.Base(filepath.Dir(postgres))
	files := map[string]string{"/box": binDir + "/box", agnhost: agnhost}
	for _, f := range []string{"/usr/share/postgresql/" + version, "/usr/share/zoneinfo", "/usr/lib/postgresql/" + version + "/lib"} {
		files[f] = f
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"passwd": "root:x:0:0::/:\nuser:x:1000:1000::/tmp:\n",
		"nginx.conf": `
			daemon off; pid /tmp/pid; error_log stderr;
			events {}
			http {
				client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
				log_format seen '$remote_addr asked for $uri';
				access_log /dev/stdout seen;
				server { listen 8081; listen [::]:8081; location / { return 200 "hello\n"; } }
			}`,
		"start-postgres": `
			set -e
			` + postgres + `/initdb -D /tmp/data -A trust --no-locale -N >/dev/null
			for a in $ALLOWED; do echo "host all all $a trust"; done > /tmp/data/pg_hba.conf
			exec ` + postgres + `/postgres -D /tmp/data -p 8083 -c listen_addresses='*' -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap
			`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		files["/"+name] = filepath.Join(dir, name)
	}
	files["/etc/passwd"] = files["/passwd"]
	files, err := withLibraries(files, postgres+"/postgres", postgres+"/initdb", postgres+"/psql",
		"/bin/sh", "/usr/sbin/nginx", "/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/curl")
	if err != nil {
		t.Fatal(err)
	}
	if err := load([]image{{"test/programs:1", []string{"/box"}, files}}, nil); err != nil {
		t.Fatal(err)
	}
	return "test/programs:1"
}
