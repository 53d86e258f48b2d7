package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

const (
	// variable tells a program that there is a document: "check FD" or "take FD PID".
	variable = "TPROXY_HANDOVER"

	// answer is what a program says to "check" that could take over.
	answer = "takes over"

	// checkTime bounds the check. Connections go on meanwhile.
	checkTime = 30 * time.Second

	firstExtra = 3 // the descriptor of a command's first extra file
)

// Program is a program file and how it is started.
type Program struct {
	Path      string
	Args, Env []string
	file      os.FileInfo // what was there when it was found
}

// Successor is the program that is now where this one was started from.
func Successor() (Program, error) {
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return Program{}, err
	}
	file, err := os.Stat(path)
	return Program{path, os.Args, environment(os.Environ()), file}, err
}

// unchanged returns nil if the program is the one that was found.
func (p Program) unchanged() error {
	now, err := os.Stat(p.Path)
	if err == nil && !(os.SameFile(now, p.file) && now.ModTime().Equal(p.file.ModTime()) && now.Size() == p.file.Size()) {
		err = fmt.Errorf("%s is another program now than the one that was checked", p.Path)
	}
	return err
}

// environment is env without what is for one process only.
func environment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return name == variable || strings.HasPrefix(name, "LISTEN_")
	})
}

// Check asks the program whether it can take over the document. It runs as a process of
// its own, which has none of the descriptors but the document.
func (d *Document) Check(ctx context.Context, p Program) error {
	ctx, stop := context.WithTimeout(ctx, checkTime)
	defer stop()
	cmd := exec.CommandContext(ctx, p.Path)
	cmd.Args, cmd.Env = p.Args, append(p.Env, fmt.Sprintf("%s=check %d", variable, firstExtra))
	cmd.ExtraFiles = []*os.File{d.file}
	cmd.WaitDelay = time.Second
	var said, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &few{&said}, &few{&failed}
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s does not say within %v whether it can take over", p.Path, checkTime)
	case err != nil && failed.Len() > 0:
		return fmt.Errorf("%s: %w: %s", p.Path, err, printable.Line(strings.TrimSpace(failed.String())))
	case err != nil:
		return fmt.Errorf("%s: %w", p.Path, err)
	case strings.TrimSpace(said.String()) != answer:
		return fmt.Errorf("%s is no sidecar that can take over", p.Path)
	}
	return nil
}

// few keeps the beginning of what a program writes.
type few struct{ *bytes.Buffer }

func (f *few) Write(b []byte) (int, error) {
	const most = 4 << 10
	_, _ = f.Buffer.Write(b[:min(len(b), max(0, most-f.Len()))])
	return len(b), nil
}

// atTheEnd are signals that a program must not miss while it becomes another: they wait
// until that one asks for them. As a container's first process it would not get them at
// all, and as another it would end.
var atTheEnd = signals(unix.SIGTERM, unix.SIGINT, unix.SIGUSR2)

func signals(all ...unix.Signal) (set unix.Sigset_t) {
	size := uint(bits.Len64(uint64(^set.Val[0])))
	for _, s := range all {
		set.Val[uint(s-1)/size] |= 1 << (uint(s-1) % size)
	}
	return set
}

// Become replaces this program by another, which inherits the document and all that it
// names. It returns only if that fails, if there is another by now than the one that was
// found, or with context.Canceled if this one has to end, and then nothing has changed but
// the limit of open files, which is what the process began with. ending gets SIGTERM and
// SIGINT and has room for one; Become only looks at it.
func (d *Document) Become(ending <-chan os.Signal, p Program) error {
	fds := append([]int{int(d.file.Fd())}, d.fds...)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &atTheEnd, &before); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	defer keepPrivate(fds)
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, os.NewSyscallError("fcntl F_SETFD", err))
		}
	}
	if err := p.unchanged(); err != nil {
		return err
	}
	if delivered(); len(ending) > 0 {
		return context.Canceled // a signal that came before it was blocked
	}
	env := append(p.Env, fmt.Sprintf("%s=take %d %d", variable, fds[0], os.Getpid()))
	return &os.PathError{Op: "exec", Path: p.Path, Err: unix.Exec(p.Path, p.Args, env)}
}

// delivered returns once all signals that have come are in the channels that wait for
// them, as Stop does by what it promises.
func delivered() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR2)
	signal.Stop(c)
}

// keepPrivate keeps descriptors from programs that this one starts.
func keepPrivate(fds []int) {
	for _, fd := range fds {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	}
}

// Inherited is what this process has been given, nil if nothing. With check it is only
// asked whether it could take over: see Agree.
func Inherited() (r *Reader, check bool, err error) {
	var fd, pid int
	value := os.Getenv(variable)
	if _, err := fmt.Sscanf(value, "check %d", &fd); err == nil {
		check = true
	} else if _, err := fmt.Sscanf(value, "take %d %d", &fd, &pid); err != nil || pid != os.Getpid() {
		return nil, false, nil
	}
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "handover")
	if file == nil {
		return nil, check, unix.EBADF
	}
	r, err = Read(file)
	return r, check, err
}

// Agree reads a document to its end, and says so to the program that asked.
func (r *Reader) Agree(out io.Writer) error {
	for c := (Conn{}); ; {
		switch err := r.Next(&c); {
		case errors.Is(err, io.EOF):
			_, err = fmt.Fprintln(out, answer)
			return err
		case err != nil:
			return err
		}
	}
}
