package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// work is where everything of this run lies that other users must reach: the
// programs under test and the applications' files.
var work string

// TestMain runs the attackers of some tests, for which the test binary is started again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		attackers := map[string]func([]string){
			attackArg: attackMain, injectArg: injectMain, rebindArg: rebindMain, impostorArg: impostorMain,
			squatArg: squatMain, ghostArg: ghostMain,
		}
		if attack, ok := attackers[os.Args[1]]; ok {
			attack(os.Args[2:])
			return
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "tproxy-cni-"); err == nil {
		err = os.Chmod(work, 0o755)
	}
	if err == nil {
		// For the tests with thousands of connections, whose clients are goroutines of
		// this process.
		_, err = lab.RaiseFileLimit()
	}
	if err == nil {
		err = raiseLockLimit()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return m.Run()
}

// raiseLockLimit is for the memory that the attackers' AF_XDP locks, of which root had
// 64 kB before Linux 5.16 and has 8 MB since. Who is not root keeps what it has.
func raiseLockLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	if l.Cur = max(l.Cur, 8<<20); l.Max < l.Cur {
		if os.Geteuid() != 0 {
			return nil
		}
		l.Max = l.Cur
	}
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l))
}

// build builds all programs once, unless [lab.Programs] has them, and returns
// their directory.
var build = sync.OnceValues(func() (string, error) {
	if dir := lab.Programs(); dir != "" {
		return dir, nil
	}
	dir := filepath.Join(work, "bin")
	return dir, programs.Build(context.Background(), "..", dir)
})

// previous builds the programs of the release before, unless [lab.Previous] has them, and
// returns a directory of them that every user can read.
var previous = sync.OnceValues(func() (string, error) {
	if dir := lab.Previous(); dir != "" {
		return dir, nil
	}
	kept, err := programs.Previous().Build(context.Background(), "..")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(work, "previous")
	return dir, os.CopyFS(dir, os.DirFS(kept))
})

// lacking builds the plugins of programs.Lacking, as build does, and returns the
// directory of one.
func lacking(t *testing.T, features string) string {
	t.Helper()
	dir, err := build()
	if err == nil {
		err = buildLacking()
	}
	if err != nil {
		t.Fatal(err)
	}
	return programs.LackingDir(dir, features)
}

var buildLacking = sync.OnceValue(func() error {
	dir, err := build()
	if err != nil || lab.Programs() != "" {
		return err
	}
	return programs.BuildLacking(context.Background(), "..", dir)
})

// bin is the path of a program under test.
func bin(t *testing.T, name string) string {
	t.Helper()
	lab.Need(t)
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// dir makes a directory that the uid owns, gone with the test.
func dir(t *testing.T, uid int) string {
	t.Helper()
	d, err := os.MkdirTemp(work, "")
	if err == nil {
		err = os.Chown(d, uid, uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// write writes a file for everyone to read and returns its path.
func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
