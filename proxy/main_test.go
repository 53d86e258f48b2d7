package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// childArg is the first argument of a test binary that runs in a pod as the
// sidecar, so that the race detector looks at all of it.
const childArg = "sidecar"

// childEnv, if it is set, makes the test binary the sidecar, too: with the arguments of a
// real one, which other processes see.
const childEnv = "TPROXY_TEST_SIDECAR"

// work is a directory that every user can read, gone with the run.
var work string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		os.Exit(run(os.Args[2:], os.Getenv, os.Stdout, os.Stderr))
	}
	if os.Getenv(childEnv) != "" {
		os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "tproxy-proxy-"); err == nil {
		err = os.Chmod(work, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	return m.Run()
}

// executable copies the test binary to where the sidecar's user can run it: go
// test keeps it in a directory of root's.
var executable = sync.OnceValues(func() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	from, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer from.Close()
	path := filepath.Join(work, "tproxy-proxy")
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return path, errors.Join(err, to.Close())
})

func sidecarCommand(t *testing.T, args ...string) []string {
	t.Helper()
	lab.Need(t)
	exe, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{exe, childArg}, args...)
}
