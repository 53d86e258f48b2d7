package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestNginx: curl's own socket, nginx' answer and nginx' access log agree.
func TestNginx(t *testing.T) {
	lab.Need(t, "curl")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		d, _ := p.nginx(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			out := p.Client.Run("curl", "-sS", "-w", "%{local_ip} %{local_port}\n",
				"--interface", f.client, "http://"+addr(f.pod, webPort)+"/")
			saw, mine, _ := strings.Cut(strings.TrimSpace(out), "\n")
			sawPeer, _ := peer(saw)
			mePeer, _ := peer(mine)
			p.wantSeen(t, sawPeer, mePeer)
			lab.Eventually(t, "nginx' access log", func() error {
				log, err := os.ReadFile(filepath.Join(d, "access.log"))
				if err == nil && !strings.Contains(string(log), saw+"\n") {
					err = fmt.Errorf("no %q in %q", saw, log)
				}
				return err
			})
		})
	})
}

// TestPostgres: pg_hba.conf admits only the client's address; the node, another client,
// is rejected with its own address, not the sidecar's.
func TestPostgres(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		const port = 5432
		p.postgres(t, port)
		p.inFamilies(t, func(t *testing.T, f family) {
			args := []string{
				"psql", "-XAt", "-h", f.pod, "-p", strconv.Itoa(port), "-U", "postgres", "-d", "postgres",
				"-c", "select host(inet_client_addr()) || ' ' || inet_client_port()",
				"-c", fmt.Sprintf(`\! ss -Htn state established dport = :%d`, port),
			}
			out := p.Client.Run(args...)
			saw, socket, _ := strings.Cut(out, "\n")
			sawPeer, err := peer(saw)
			if err != nil || len(strings.Fields(socket)) < 3 {
				t.Fatalf("%v in %q", err, out)
			}
			p.wantSeen(t, sawPeer, strings.Fields(socket)[2])

			out, err = p.Node.Try(args...)
			if want := fmt.Sprintf("no pg_hba.conf entry for host %q", f.gateway); err == nil || !strings.Contains(out, want) {
				t.Errorf("another client: got %q (%v), want %q", out, err, want)
			}
		})
	})
}

// TestRedis: CLIENT LIST and redis-cli's own socket agree.
func TestRedis(t *testing.T) {
	lab.Need(t, "redis-server", "redis-cli")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		const port = 6379
		p.Pod.StartAs(app, "redis-server", "--port", strconv.Itoa(port), "--bind", "*", "-::*",
			"--protected-mode", "no", "--save", "", "--dir", dir(t, appUID)).WaitListen(port)
		p.inFamilies(t, func(t *testing.T, f family) {
			cli := p.hold(t, p.Client, "redis-cli", "-h", f.pod, "-p", strconv.Itoa(port),
				"-r", "1000000", "-i", "1", "CLIENT", "LIST").WaitLog("addr=")
			saw := field(cli.Output(), "addr")
			p.wantSeen(t, saw, socketTo(t, p.Client, port))
		})
	})
}

// TestOpenSSH: a server that speaks first, and SSH_CLIENT in its session.
func TestOpenSSH(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		const port = 2222
		key := p.sshd(t, port)
		p.inFamilies(t, func(t *testing.T, f family) {
			ssh := p.hold(t, p.Client, "ssh", "-F", "none", "-i", key, "-p", strconv.Itoa(port),
				"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
				"root@"+f.pod, `echo "SSH_CLIENT=$SSH_CLIENT"; cat`).WaitLog(fmt.Sprintf(" %d\n", port))
			saw := strings.Fields(firstLine(ssh.Output(), "SSH_CLIENT="))
			p.wantSeen(t, addr(saw[0], atoi(t, saw[1])), socketTo(t, p.Client, port))
		})
	})
}

// TestServerFirst: nc greets a client that says nothing.
func TestServerFirst(t *testing.T) {
	lab.Need(t, "nc")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.inFamilies(t, func(t *testing.T, f family) {
			const port, greeting = 9000, "220 ready when you are"
			server := p.Pod.StartAs(app, "sh", "-c",
				fmt.Sprintf("{ echo '%s'; cat; } | nc -lnv %s %d", greeting, f.any, port)).WaitListen(port)
			p.hold(t, p.Client, "nc", f.pod, strconv.Itoa(port)).WaitLog(greeting)
			saw := firstLine(server.WaitLog("Connection received").Output(), "Connection received on ")
			sawPeer, err := peer(saw)
			if err != nil {
				t.Fatal(err)
			}
			p.wantSeen(t, sawPeer, socketTo(t, p.Client, port))
			server.Kill()
		})
	})
}

// TestCapabilities: no thread of the serving sidecar has a capability. In tproxy mode it
// started with NET_RAW and dropped it for good.
func TestCapabilities(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.nginx(t)
		p.wantExact(t, v4)
		p.wantExact(t, v6)
		uid := fmt.Sprint(contract.ProxyUID)
		for _, status := range threadStatus(t, p.sidecar) {
			if got := strings.Fields(status["Uid"])[1]; got != uid {
				t.Errorf("effective uid %s, want %s", got, uid)
			}
			for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
				if status[set] != "0000000000000000" {
					t.Errorf("%s: %s", set, status[set])
				}
			}
			if p.mode == contract.ModeNAT && status["CapBnd"] != "0000000000000000" {
				t.Errorf("CapBnd: %s", status["CapBnd"])
			}
		}
	})
}

// TestFileCapability starts the sidecar as the image does: the capability is
// the program's own, permitted but not effective.
func TestFileCapability(t *testing.T) {
	lab.Need(t, "setcap")
	p := newPod(t, setup{mode: contract.ModeTProxy, bare: true})
	p.nginx(t)
	exe := withFileCapability(t, dir(t, contract.ProxyUID))
	p.sidecar = p.Pod.StartAs(lab.User{UID: contract.ProxyUID, Bounding: []string{"net_raw"}}, exe, "--mode", p.mode)
	p.waitReady()
	p.wantExact(t, v4)
	p.wantExact(t, v6)
	for _, status := range threadStatus(t, p.sidecar) {
		if status["CapPrm"] != "0000000000000000" || status["CapEff"] != "0000000000000000" {
			t.Errorf("a thread still has CapPrm %s, CapEff %s", status["CapPrm"], status["CapEff"])
		}
	}
}

// threadStatus is /proc/PID/task/*/status.
func threadStatus(t *testing.T, proc *lab.Proc) []map[string]string {
	t.Helper()
	return threads(t, proc.Pid())
}

func threads(t *testing.T, pid int) []map[string]string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	var all []map[string]string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // the thread ended
		}
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		for _, line := range strings.Split(string(text), "\n") {
			k, v, _ := strings.Cut(line, ":")
			status[k] = strings.TrimSpace(v)
		}
		all = append(all, status)
	}
	return all
}

// sshd starts OpenSSH's server, which needs root, and returns a key that it accepts.
func (p *pod) sshd(t *testing.T, port int) (key string) {
	t.Helper()
	lab.Need(t, "sshd", "ssh", "ssh-keygen")
	// Debian's sshd needs a directory that its service creates.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	d := dir(t, 0)
	for _, k := range []string{"host", "user"} {
		p.Node.Run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(d, k))
	}
	sshd, _ := lab.Look("sshd")
	p.Pod.Start(sshd, "-D", "-e", "-f", write(t, filepath.Join(d, "conf"), fmt.Sprintf(`
Port %[2]d
HostKey %[1]s/host
AuthorizedKeysFile %[1]s/user.pub
PidFile none
PermitRootLogin yes
StrictModes no
UsePAM no
`, d, port))).WaitListen(port)
	return filepath.Join(d, "user")
}

// postgres starts PostgreSQL, which admits only the client's addresses.
func (p *pod) postgres(t *testing.T, port int) {
	t.Helper()
	lab.Need(t, "psql")
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		lab.Need(t, "postgres", "initdb")
		path, _ := lab.Look("postgres")
		found = []string{filepath.Dir(path)}
	}
	// It looks up its user's name, and a machine may have no user appUID.
	nobody := lab.User{UID: 65534, NoNewPrivs: true}
	pgBin, d := found[0], dir(t, nobody.UID)
	data := filepath.Join(d, "data")
	if out, err := p.Pod.TryAs(nobody, pgBin+"/initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	write(t, filepath.Join(data, "pg_hba.conf"), fmt.Sprintf(
		"host all all %s/32 trust\nhost all all %s/128 trust\n", v4.client, v6.client)+
		fmt.Sprintf("host all all %s/32 trust\nhost all all %s/128 trust\n", v4.other, v6.other))
	p.Pod.StartAs(nobody, pgBin+"/postgres", "-D", data, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=*", "-c", "unix_socket_directories="+d, "-c", "fsync=off").
		WaitListen(port).WaitLog("ready to accept connections")
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
