package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// TestFront: a connection over the unix socket goes to the application from the client
// that its header names, in both families. A stranger's is refused although it can
// connect, the file is exactly the sidecar's, and it goes with the sidecar.
func TestFront(t *testing.T) {
	const front = 101
	path := frontPath(t, contract.ProxyUID, front)
	for _, tt := range []struct {
		mode string
		uid  int // of the other proxy
		file fs.FileMode
		args []string
	}{
		{contract.ModeNAT, contract.ProxyUID, 0o600, nil},
		{contract.ModeTProxy, front, 0o660, []string{"--accept-proxy-uid", fmt.Sprint(front)}},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			// What a sidecar that was killed has left.
			stale, err := sock.ListenUnix(path, 0o777)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(stale.FD)
			if err := os.Lchown(path, contract.ProxyUID, -1); err != nil {
				t.Fatal(err)
			}
			p := prepared(t, tt.mode)
			a := p.listen(t, 0)
			p.start(append(tt.args, "--drain", "0s", "--accept-proxy", "unix:"+path, "--accept-proxy-to", fmt.Sprint(a.port))...)
			p.waitReady()
			if info, err := os.Lstat(path); err != nil || info.Mode() != tt.file|fs.ModeSocket {
				t.Errorf("the file is %v, %v", info, err)
			}
			for i, addr := range []netip.Addr{named4, named6} {
				client := netip.AddrPortFrom(addr, uint16(34001+2*i))
				s := p.front(t, tt.uid, path)
				for _, b := range []byte(header2(client)) {
					send(t, s, string([]byte{b}))
				}
				send(t, s, "hello")
				application := a.accept(t)
				if saw := sock.AddrPort(application.RemoteAddr()); saw != client {
					t.Errorf("the application sees %s, the header names %s", saw, client)
				}
				receive(t, application, "hello")
				// More than the sockets hold, both ways at once.
				up, down := random(t, 8<<20), random(t, 8<<20)
				go func() {
					_, _ = s.Write(up)
					_ = s.CloseWrite()
				}()
				go func() {
					_, _ = application.Write(down)
					_ = application.CloseWrite()
				}()
				if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, down) {
					t.Errorf("got %d bytes of %d or others, %v", len(got), len(down), err)
				}
				if got, err := io.ReadAll(application); err != nil || !bytes.Equal(got, up) {
					t.Errorf("the application got %d bytes of %d or others, %v", len(got), len(up), err)
				}
				if line := p.wantEnd(t, client, accesslog.Closed); line["via"] != "unix" {
					t.Errorf("the log says %v", line)
				}
			}
			// Its own connection, such as a health check.
			s := p.front(t, tt.uid, path)
			send(t, s, "PROXY UNKNOWN\r\nhello")
			if saw := sock.AddrPort(a.accept(t).RemoteAddr()).Addr(); saw.String() != lab.Pod4 {
				t.Errorf("the application sees %s, not the pod", saw)
			}
			if err := os.Chmod(path, 0o666); err != nil {
				t.Fatal(err)
			}
			p.front(t, 7, path)
			p.sidecar.WaitLog("a process of uid 7 must not use")
			for _, c := range []string{lab.Pod4, "127.0.0.1"} {
				s = p.front(t, tt.uid, path)
				send(t, s, header1(netip.AddrPortFrom(netip.MustParseAddr(c), 1)))
				p.sidecar.WaitLog("must not name " + c)
			}
			if err := p.sidecar.Stop(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file is left behind: %v", err)
			}
		})
	}
}

// frontPath is where a user can make a socket, which is the group's, too.
func frontPath(t *testing.T, uid, gid int) string {
	t.Helper()
	lab.Need(t)
	dir, err := os.MkdirTemp(work, "")
	if err == nil {
		err = errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, 0o755|fs.ModeSetgid))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "front.sock")
}

// front connects to the sidecar's socket as a user and its group.
func (p *pod) front(t *testing.T, uid int, path string) (conn *net.UnixConn) {
	t.Helper()
	err := p.Pod.Do(func() error { // on a thread that ends with it
		id := uintptr(uid)
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, id, id, id); errno != 0 {
				return errno
			}
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		conn = c
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(lab.Patience))
	return conn
}

// TestNoPlace: the sidecar does not take the place of what another process has, and says
// what is wrong.
func TestNoPlace(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", at("link")); err != nil {
		t.Fatal(err)
	}
	ln, err := sock.ListenUnix(at("taken"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ln.FD)
	for name, want := range map[string]string{
		"file": "is no socket", "link": "is no socket", "taken": "another process listens", "no/dir": "no such file or directory",
	} {
		if _, err := sock.ListenUnix(at(name), 0o600); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if _, err := os.Lstat(at("taken")); err != nil {
		t.Error(err)
	}
	// Another's in its place stays.
	if err := errors.Join(os.Remove(at("taken")), os.WriteFile(at("taken"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	ln.Remove()
	if _, err := os.Lstat(at("taken")); err != nil {
		t.Error(err)
	}
}
