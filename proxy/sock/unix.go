package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/proxy/sys"
)

// MaxUnixPath is the length of the longest path of a unix socket (unix(7)).
const MaxUnixPath = 107

const listenQueue = 4096 // the kernel takes net.core.somaxconn if that is less

// UnixListener is a listening unix socket and its file.
type UnixListener struct {
	FD   int    `json:"-"`
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
}

// ListenUnix opens a listener at an absolute path, whose file has exactly this mode. The
// umask is another for a moment: call it before other goroutines make files. A socket
// that a dead process has left there is replaced; the error says so if a living one
// listens on it, or if the file is none.
func ListenUnix(path string, mode fs.FileMode) (ln UnixListener, err error) {
	if err := removeStale(path); err != nil {
		return ln, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ln, os.NewSyscallError("socket", err)
	}
	ln = UnixListener{FD: fd, Path: path}
	bound := false
	defer func() {
		if err == nil {
			return
		}
		sys.Close(fd)
		if bound {
			_ = os.Remove(path)
		}
		err = fmt.Errorf("listen on unix:%s: %w", path, err)
	}()
	// bind gives the file the socket's own mode: at no moment it has another, and no path
	// is followed to change it.
	if err = os.NewSyscallError("fchmod", unix.Fchmod(fd, uint32(mode))); err != nil {
		return ln, err
	}
	umask := unix.Umask(0)
	err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	unix.Umask(umask)
	if err != nil {
		return ln, err
	}
	bound = true
	var st unix.Stat_t
	if err = os.NewSyscallError("lstat", unix.Lstat(path, &st)); err != nil {
		return ln, err
	}
	ln.Dev, ln.Ino = st.Dev, st.Ino
	return ln, os.NewSyscallError("listen", unix.Listen(fd, listenQueue))
}

// removeStale removes a socket on which nothing listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("another process listens on %s", path)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("does another process listen there? %w", err) // names the path
	}
	return os.Remove(path)
}

// Remove removes the listener's file, unless another is in its place. The listener
// stays open.
func (ln UnixListener) Remove() {
	var st unix.Stat_t
	if unix.Lstat(ln.Path, &st) == nil && st.Dev == ln.Dev && st.Ino == ln.Ino {
		_ = os.Remove(ln.Path)
	}
}

// PeerUID is the user of the process that opened a connection over a unix socket, at
// that moment.
func PeerUID(fd int) (uint32, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	return cred.Uid, nil
}
