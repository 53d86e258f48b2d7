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

// debian packs programs of this machine into an image, with the files that
// they need and a user, and gives it to the nodes.
func debian(t *testing.T, name string, entry []string, texts map[string]string, folders []string, programs ...string) string {
	t.Helper()
	files := map[string]string{"/box": binDir + "/box"}
	dir := t.TempDir()
	texts["/etc/passwd"] = "root:x:0:0::/:\nuser:x:1000:1000::/tmp:\n"
	for path, text := range texts {
		from := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(from, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		files[path] = from
	}
	for _, f := range folders {
		files[f] = f
	}
	files, err := withLibraries(files, programs...)
	if err != nil {
		t.Fatal(err)
	}
	m := image{"test/" + name + ":1", entry, files}
	if err := load([]image{m}, nil); err != nil {
		t.Fatal(err)
	}
	return m.name
}

// TestNginx: the access log has the client's address.
func TestNginx(t *testing.T) {
	image := debian(t, "nginx", []string{"/usr/sbin/nginx", "-c", "/nginx.conf"}, map[string]string{"/nginx.conf": `
		daemon off; pid /tmp/pid; error_log stderr;
		events {}
		http {
			client_body_temp_path /tmp/1; proxy_temp_path /tmp/2; fastcgi_temp_path /tmp/3; uwsgi_temp_path /tmp/4; scgi_temp_path /tmp/5;
			log_format seen '$remote_addr asked for $uri';
			access_log /dev/stdout seen;
			server { listen 8080; listen [::]:8080; location / { return 200 "hello\n"; } }
		}`}, nil, "/usr/sbin/nginx")
	eachWay(t, image, func(ns *namespace, mode, client, ip string) {
		ns.kubectl("exec", "client", "--", "/box", "dial", "-send", `GET /of-`+mode+` HTTP/1.0\r\n\r\n`, net.JoinHostPort(ip, "8080"))
		await(t, 5*time.Second, "access log", func() error {
			want := client + " asked for /of-" + mode
			if log := ns.log(mode, "app"); !strings.Contains(log, want) {
				return fmt.Errorf("no %q in\n%s", want, log)
			}
			return nil
		})
	})
}

// TestNetexec: the server of Kubernetes' own client-address tests tells the
// client's address, and in nat mode its port.
func TestNetexec(t *testing.T) {
	agnhost := binDir + "/agnhost"
	image := debian(t, "netexec", []string{agnhost, "netexec", "--http-port=8080", "--udp-port=-1"},
		map[string]string{}, []string{agnhost}, "/usr/bin/curl")
	eachWay(t, image, func(ns *namespace, mode, client, ip string) {
		out := ns.kubectl("exec", "client", "--", "/usr/bin/curl", "-sS", "-w", " %{local_port}", "http://"+net.JoinHostPort(ip, "8080")+"/clientip")
		seen, port, _ := strings.Cut(out, " ")
		if !strings.HasPrefix(seen, net.JoinHostPort(client, "")) || mode == "nat" && seen != net.JoinHostPort(client, port) {
			t.Errorf("%s: the server saw %s, the client is %s port %s", mode, seen, client, port)
		}
	})
}

// TestRedis: CLIENT LIST has the client's address.
func TestRedis(t *testing.T) {
	image := debian(t, "redis", []string{"/usr/bin/redis-server", "--port", "8080", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--dir", "/tmp"},
		map[string]string{}, nil, "/usr/bin/redis-server", "/usr/bin/redis-cli")
	eachWay(t, image, func(ns *namespace, mode, client, ip string) {
		out := ns.kubectl("exec", "client", "--", "/usr/bin/redis-cli", "-h", ip, "-p", "8080", "client", "list")
		if want := " addr=" + net.JoinHostPort(client, ""); !strings.Contains(out, want) {
			t.Errorf("%s: no %q in %s", mode, want, out)
		}
	})
}

// TestPostgres: pg_hba.conf lets in one client by its address, and no other.
func TestPostgres(t *testing.T) {
	bin, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(bin) == 0 {
		t.Fatal("no PostgreSQL in /usr/lib", err)
	}
	version := filepath.Base(filepath.Dir(bin[0]))
	image := debian(t, "postgres", []string{"/bin/sh", "/start"}, map[string]string{"/start": `
		set -e
		` + bin[0] + `/initdb -D /tmp/data -A trust --no-locale -N >/dev/null
		for a in $ALLOWED; do echo "host all all $a trust"; done > /tmp/data/pg_hba.conf
		exec ` + bin[0] + `/postgres -D /tmp/data -p 8080 -c listen_addresses='*' -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap
		`}, []string{"/usr/share/postgresql/" + version, "/usr/share/zoneinfo", "/usr/lib/postgresql/" + version + "/lib"},
		bin[0]+"/postgres", bin[0]+"/initdb", bin[0]+"/psql", "/bin/sh")
	eachWay(t, image, func(ns *namespace, mode, client, ip string) {
		query := []string{"--", bin[0] + "/psql", "-h", ip, "-p", "8080", "-U", "user", "-d", "postgres", "-Atc", "select inet_client_addr()"}
		if out := ns.kubectl(append([]string{"exec", "client"}, query...)...); strings.TrimSpace(out) != client {
			t.Errorf("%s: the client is %q, want %s", mode, out, client)
		}
		out, err := ns.try(append([]string{"exec", "stranger"}, query...)...)
		if err == nil || !strings.Contains(out, "no pg_hba.conf entry for host") {
			t.Errorf("%s: a stranger got %q, %v", mode, out, err)
		}
	})
}

// eachWay runs the image's server behind the sidecar in both modes, and has
// check use it over both families. The pods client and stranger have the
// programs of the image too, and wait; the server finds the first one's
// networks in $ALLOWED.
func eachWay(t *testing.T, image string, check func(ns *namespace, mode, client, ip string)) {
	t.Helper()
	ns := newNamespace(t)
	ns.apply(pod{name: "client", node: 2, image: image, container: "command: [/box]"}.yaml(t),
		pod{name: "stranger", node: 1, image: image, container: "command: [/box]"}.yaml(t))
	ns.ready("client", "stranger")
	client := ns.addrs("pod/client")
	for _, mode := range modes {
		s := server(mode, 1, mode)
		s.image, s.restricted = image, true // PostgreSQL refuses root
		s.args = nil
		s.container += fmt.Sprintf(`, env: [{name: ALLOWED, value: "%s/32 %s/128"}]`, client[0], client[1])
		ns.apply(s.yaml(t))
	}
	ns.ready(modes...)
	for _, mode := range modes {
		for i, ip := range ns.addrs("pod/" + mode) {
			check(ns, mode, client[i].String(), ip.String())
		}
	}
}
