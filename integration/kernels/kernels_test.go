package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

func TestNewest(t *testing.T) {
	const list = `linux-image-6.1.0-9-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-56-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-57-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-58-amd64-dbg - Debug symbols for linux-image-6.1.0-58-amd64
linux-image-6.12-amd64 - Linux for 64-bit PCs (meta-package)
linux-image-6.12.99+deb12-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.117+deb12-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.118+deb12-amd64-unsigned - Linux 6.12 for 64-bit PCs
linux-image-6.12.119+deb12-rt-amd64 - Linux 6.12 for 64-bit PCs (signed), PREEMPT_RT
`
	for version, want := range map[string]string{
		"6.1": "linux-image-6.1.0-56-amd64", "6.12": "linux-image-6.12.117+deb12-amd64", "5.10": "",
	} {
		if got := newest(list, version); got != want {
			t.Errorf("newest %s is %q, want %q", version, got, want)
		}
	}
}

// A guest's log, with the byte that marks the test framework's own lines.
const (
	passed = "\x16=== RUN   TestA\n\x16=== RUN   TestA/part\n\x16--- PASS: TestA/part (0.10s)\n\x16=== NAME  TestA\n" +
		"\x16--- PASS: TestA (1.50s)\n\x16=== NAME  \n"
	broken = "\x16=== RUN   TestB\n    b_test.go:7: the reason\n\x16--- FAIL: TestB (0.10s)\n\x16=== NAME  \n"
	good   = passed + "\x16PASS\n"
	bad    = passed + broken + "\x16FAIL\n"
)

func TestReport(t *testing.T) {
	for name, tt := range map[string]struct {
		log  string
		want []string // parts of what is printed
		fail bool
	}{
		"passed": {
			"### kernel 6.1.0\n### plan 1\n### run proxy\n" + good + "\n### end proxy 0 7\n",
			[]string{"Linux 6.1 (6.1.0, pkg)", "ok   proxy", "1 tests and   1 parts passed, 0 failed, 0 skipped, 7 s"},
			false,
		},
		"failed": {
			"### kernel 6.1.0\n### plan 2\n### run proxy\n" + bad + "\n### end proxy 1 7\n### run plugin\n" + good + "\n### end plugin 0 7\n",
			[]string{"FAIL proxy", "1 tests and   1 parts passed, 1 failed", "b_test.go:7: the reason", "ok   plugin"},
			true,
		},
		"died": {
			"### kernel 6.1.0\n### plan 1\n### run proxy\n" + passed + "\x16=== RUN   TestC\npanic: oh\n\n### end proxy 2 7\n",
			[]string{"FAIL proxy", "panic: oh"},
			true,
		},
		"cut off":  {"### kernel 6.1.0\n### plan 1\n### run proxy\n" + passed, []string{"ended early"}, true},
		"one less": {"### kernel 6.1.0\n### plan 2\n### run proxy\n" + good + "\n### end proxy 0 7\n", []string{"ended early"}, true},
		"nothing":  {"", []string{"ended early"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := result{version: "6.1", pkg: "pkg"}
			r.sections, r.uname, r.err = parse(tt.log)
			var out bytes.Buffer
			r.print(&out)
			if r.failed() != tt.fail {
				t.Errorf("failed is %v", r.failed())
			}
			for _, w := range tt.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("no %q in:\n%s", w, &out)
				}
			}
		})
	}
}

// TestArchive: cpio reads what we write.
func TestArchive(t *testing.T) {
	lab.Need(t, "cpio")
	var a archive
	a.add("d", modeDir|0o755, nil)
	a.add("d/f", modeFile|0o644, []byte("12345"))
	a.add("l", modeLink|0o777, []byte("d"))
	a.add("TRAILER!!!", 0, nil)
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-i")
	cmd.Dir, cmd.Stdin = dir, &a
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "l/f")); err != nil || string(text) != "12345" {
		t.Errorf("l/f is %q (%v)", text, err)
	}
}
