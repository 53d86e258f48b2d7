package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestList: each row names a target that the Makefile asks for, once and in
// order; and each target that it asks for has rows.
func TestList(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	var pkgs []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		pkgs = append(pkgs, f[0])
		if len(f) < 3 {
			t.Errorf("%s is for no target", f[0])
		}
		for _, target := range f[2:] {
			if !strings.Contains(string(makefile), "\n"+target+": "+target+"-needs") {
				t.Errorf("make %s, which needs %s, does not install it", target, f[0])
			}
		}
	}
	if sorted := slices.Compact(slices.Sorted(slices.Values(pkgs))); !slices.Equal(pkgs, sorted) {
		t.Errorf("not in order: %v", pkgs)
	}
}

// TestLacking: on other systems than Debian a row is installed if its program is.
func TestLacking(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"here", "file.so"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	got := lacking([]row{{"a", "here"}, {"b", "not-here"}, {"c", dir + "/*.so"}, {"d", dir + "/*.a"}}, false)
	if want := []row{{"b", "not-here"}, {"d", dir + "/*.a"}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestPolicy: while setup runs, packages may not start services. The policy that
// a killed setup left allows everything and removes itself; a policy that was there
// before stays.
func TestPolicy(t *testing.T) {
	ask := func(path string) int {
		var exit *exec.ExitError
		if err := exec.Command(path, "nginx", "start").Run(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if exit == nil {
			return 0
		}
		return exit.ExitCode()
	}
	path := filepath.Join(t.TempDir(), "policy-rc.d")
	gone := func() {
		t.Helper()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := forbidStarts(path, dead.Process.Pid); err != nil {
		t.Fatal(err)
	}
	allow, err := forbidStarts(path, os.Getpid()) // in place of what is left
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(path); got != 101 {
		t.Errorf("status %d, want 101: forbidden", got)
	}
	allow()
	gone()

	if _, err := forbidStarts(path, dead.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if got := ask(path); got != 0 {
		t.Errorf("status %d after its process ended", got)
	}
	gone()

	const own = "#!/bin/sh\nexit 104\n"
	if err := os.WriteFile(path, []byte(own), 0o755); err != nil {
		t.Fatal(err)
	}
	if allow, err = forbidStarts(path, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	allow()
	if text, err := os.ReadFile(path); string(text) != own {
		t.Errorf("the policy that was there before is now %q (%v)", text, err)
	}
}

// TestComplaints: the useful part of what apt prints when it fails.
func TestComplaints(t *testing.T) {
	const said = "Reading package lists...\nE: Unable to locate package x\nW: Some index files failed\n"
	if got, want := complaints(said), "E: Unable to locate package x\nW: Some index files failed"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := complaints("oh\n"); got != "oh" {
		t.Errorf("%q", got)
	}
}
