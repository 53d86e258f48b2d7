package integration

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestFTP: data connections in both directions. The server accepts passive ones only
// from the address of the control connection, and makes active ones only to that.
func TestFTP(t *testing.T) {
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		served := p.vsftpd(t)
		p.inFamilies(t, func(t *testing.T, f family) {
			ways := map[string][]string{"EPSV": nil, "EPRT": {"--ftp-port", "-"}}
			if f == v4 {
				ways["PASV"] = []string{"--disable-epsv"}
				ways["PORT"] = []string{"--ftp-port", "-", "--disable-eprt"}
			}
			for command, args := range ways {
				t.Run(command, func(t *testing.T) { p.wantFTP(t, f, served, command, args) })
			}
		})
	})
}

// wantFTP lists, downloads and uploads over data connections of the command's kind, and
// checks that the server's log has the client's address.
func (p *pod) wantFTP(t *testing.T, f family, served, command string, args []string) {
	t.Helper()
	before := len(ftpLog(t, served))
	url, here := "ftp://"+addr(f.pod, ftpPort)+"/", dir(t, 0)
	run := func(more ...string) string {
		t.Helper()
		out, err := p.curl(f, append(more, args...)...)
		if err != nil {
			t.Fatalf("curl %v: %v\n%s", more, err, out)
		}
		return out
	}
	if out := run("--list-only", url); !strings.Contains(out, "incoming") {
		t.Errorf("list: %q", out)
	}
	want := noiseFile(t, filepath.Join(served, "down"), int64(lab.Count(1<<20)))
	run("-o", filepath.Join(here, "got"), url+"down")
	if fileSum(t, filepath.Join(here, "got")) != want {
		t.Error("download: other bytes")
	}
	up := f.name + "-" + command
	want = noiseFile(t, filepath.Join(here, "mine"), int64(lab.Count(1<<20)))
	run("-T", filepath.Join(here, "mine"), url+"incoming/"+up)
	if fileSum(t, filepath.Join(served, "incoming", up)) != want {
		t.Error("upload: other bytes")
	}
	log := ftpLog(t, served)[before:]
	if n := strings.Count(log, fmt.Sprintf("%s\", \"%s", f.client, command)); n != 3 {
		t.Errorf("%d commands %s of %s, not 3, in:\n%s", n, command, f.client, log)
	}
	if !strings.Contains(log, fmt.Sprintf("OK UPLOAD: Client \"%s\", \"/incoming/%s\"", seenBy(f), up)) {
		t.Errorf("no upload of %s in:\n%s", f.client, log)
	}
}

// seenBy is the client's address in the log of a server with a dual-stack socket.
func seenBy(f family) string {
	if f == v4 {
		return "::ffff:" + f.client
	}
	return f.client
}

func ftpLog(t *testing.T, served string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(served), "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

const ftpPort = 21

// vsftpd starts Debian's vsftpd and returns the directory that it serves. It needs
// root, as active connections come from port 20.
func (p *pod) vsftpd(t *testing.T) (served string) {
	t.Helper()
	lab.Need(t, "vsftpd", "curl")
	d := dir(t, 0)
	served = filepath.Join(d, "served")
	for _, sub := range []string{"empty", "served", "served/incoming"} {
		if err := os.Mkdir(filepath.Join(d, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ftp, err := user.Lookup("ftp") // which the package has made
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(served, "incoming"), atoi(t, ftp.Uid), atoi(t, ftp.Gid)); err != nil {
		t.Fatal(err)
	}
	conf := write(t, filepath.Join(d, "conf"), fmt.Sprintf(`
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
ftp_username=ftp
nopriv_user=nobody
anon_root=%[1]s/served
secure_chroot_dir=%[1]s/empty
write_enable=YES
anon_upload_enable=YES
anon_umask=022
connect_from_port_20=YES
xferlog_enable=YES
log_ftp_protocol=YES
vsftpd_log_file=%[1]s/log
isolate=NO
isolate_network=NO
seccomp_sandbox=NO
`, d))
	p.Pod.Start("vsftpd", conf).WaitListen(ftpPort)
	return served
}
