package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// work is where everything of this run lies that other users must reach: the
// programs under test and the applications' files.
var work string

// TestMain also is the attacker of the guard's tests: see attack_test.go.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == attackArg {
		attackMain(os.Args[2:])
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "tproxy-cni-"); err == nil {
		err = os.Chmod(work, 0o755)
	}
	if err == nil {
		err = raiseFileLimit()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return m.Run()
}

// raiseFileLimit is for the tests with thousands of connections, whose clients
// are goroutines here; the programs started here inherit it.
func raiseFileLimit() error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	l.Cur = l.Max
	return os.NewSyscallError("setrlimit", syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l))
}

// builds are the programs of a test run: ours, and the upstream ones pinned in
// tools.mod.
var builds = []struct{ name, mod, pkg string }{
	{"tproxy-cni", "go.mod", "./plugin"},
	{"tproxy-proxy", "go.mod", "./proxy"},
	{"echo-server", "go.mod", "./echo-server"},
	{"cnitool", "tools.mod", "github.com/containernetworking/cni/cnitool"},
	{"ptp", "tools.mod", "github.com/containernetworking/plugins/plugins/main/ptp"},
	{"bridge", "tools.mod", "github.com/containernetworking/plugins/plugins/main/bridge"},
	{"host-local", "tools.mod", "github.com/containernetworking/plugins/plugins/ipam/host-local"},
}

// build builds all programs, once, unless somebody has, and returns their
// directory.
var build = sync.OnceValues(func() (string, error) {
	if dir := lab.Programs(); dir != "" {
		return dir, nil
	}
	dir := filepath.Join(work, "bin")
	for _, b := range builds {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-modfile="+b.mod, "-o", filepath.Join(dir, b.name), b.pkg)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", b.name, err, out)
		}
	}
	return dir, nil
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
