package lab

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Copies puts programs, by the names that they get, where every user can run them: a
// checkout may lie below /root. The directory goes with the test.
func Copies(t TB, programs map[string]string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab-programs-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	err = os.Chmod(dir, 0o755)
	for name, from := range programs {
		if err == nil {
			err = copyFile(filepath.Join(dir, name), from)
		}
	}
	if err != nil {
		t.Fatalf("copy the programs: %v", err)
	}
	return dir
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Close()
}

// RaiseFileLimit raises the limit of open files to the hard limit, for this process
// and those that it starts, and returns it.
func RaiseFileLimit() (int, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	l.Cur = l.Max
	return int(min(l.Max, 1<<20)), os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l))
}
