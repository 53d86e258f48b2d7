package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestPick: the list as apt-cache pkgnames prints it.
func TestPick(t *testing.T) {
	const list = `linux-image-6.1.0-9-amd64
linux-image-6.1.0-56-amd64
linux-image-6.1.0-0.deb11.60-amd64
linux-image-6.1.0-57-cloud-amd64
linux-image-6.1.0-58-amd64-dbg
linux-image-6.12-amd64
linux-image-6.12.99+deb12-amd64
linux-image-6.12.117+deb12-amd64
linux-image-6.12.90+deb13.1-amd64
linux-image-6.12.117+deb13.1-amd64
linux-image-6.12.118+deb12-amd64-unsigned
linux-image-6.12.119+deb12-rt-amd64
linux-image-7.2.13+deb14-amd64
linux-image-7.2.14+deb14-cloud-amd64
linux-image-7.3-amd64
linux-image-amd64
`
	for version, want := range map[string]string{
		"6.1": "linux-image-6.1.0-56-amd64", "6.12": "linux-image-6.12.117+deb13.1-amd64", "5.10": "",
		newest: "linux-image-7.2.13+deb14-amd64",
	} {
		if got := pick(list, version); got != want {
			t.Errorf("of %s %q is picked, want %q", version, got, want)
		}
	}
}

// TestParts: from Linux 6.19 on a kernel's package is empty, and its parts are others.
func TestParts(t *testing.T) {
	for pkg, tt := range map[string]struct {
		depends string
		want    []string
	}{
		"linux-image-6.1.0-57-amd64": {"linux-image-6.1.0-57-amd64\n  PreDepends: linux-base\n  Depends: kmod\n |Depends: initramfs-tools\n", nil},
		"busybox-static":             {"busybox-static\n", nil},
		"linux-image-7.2.13+deb14-amd64": {
			"linux-image-7.2.13+deb14-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: <linux-initramfs-tool>\n    dracut\n" +
				"  Depends: linux-base-7.2.13+deb14-amd64\n  Depends: linux-binary-7.2.13+deb14-amd64\n  Depends: linux-modules-7.2.13+deb14-amd64\n",
			[]string{"linux-base-7.2.13+deb14-amd64", "linux-binary-7.2.13+deb14-amd64", "linux-modules-7.2.13+deb14-amd64"},
		},
	} {
		if got := parts(tt.depends, pkg); !slices.Equal(got, tt.want) {
			t.Errorf("%s has the parts %v, want %v", pkg, got, tt.want)
		}
	}
}

// TestSources: the mirrors are the machine's, for suites that it does not use, too.
func TestSources(t *testing.T) {
	const mirrors = "Debian trixie https://mirror.example.org/debian/\nDebian trixie-security https://mirror.example.org/security/\nOther sid https://example.net/\n"
	for name, tt := range map[string]struct {
		mirrors string
		want    []string
	}{
		"as configured":         {mirrors, []string{" https://mirror.example.org/debian/ bullseye main\n", " https://mirror.example.org/security/ bullseye-security main\n", " https://mirror.example.org/debian/ sid main\n"}},
		"of debug symbols last": {mirrors + "Debian trixie-debug https://mirror.example.org/debug/\nDebian trixie-backports https://mirror.example.org/back/\n", []string{" https://mirror.example.org/debian/ trixie main\n"}},
		"no security":           {"Debian sid https://mirror.example.org/debian/\n", []string{" https://mirror.example.org/debian/ bullseye main\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := sources(tt.mirrors)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(list, w) {
					t.Errorf("no %q in:\n%s", w, list)
				}
			}
		})
	}
	if list, err := sources("Other noble https://example.net/\n"); err == nil {
		t.Errorf("not Debian: %q", list)
	}
}

// TestNoLists: a machine whose apt has no lists yet, as in container images, has them
// fetched once.
func TestNoLists(t *testing.T) {
	const ours = "Debian trixie https://mirror.example.org/debian/\n"
	dir := t.TempDir()
	fake := `#!/bin/sh
lists=` + dir + `/lists
case "$*" in
"-q update") echo >> $lists.fetched; printf '` + strings.TrimSuffix(ours, "\n") + `\n' > $lists ;;
indextargets*) if [ -e $lists ]; then cat $lists; fi ;;
*) exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for range 2 {
		if mirrors, err := listMirrors(t.Context()); err != nil || mirrors != ours {
			t.Errorf("%q, %v", mirrors, err)
		}
	}
	if n, err := os.ReadFile(filepath.Join(dir, "lists.fetched")); err != nil || string(n) != "\n" {
		t.Errorf("fetched %d times, %v", len(n), err)
	}
}

// A guest's log, with the byte that marks the test framework's own lines.
const (
	passed = "\x16=== RUN   TestA\n\x16=== RUN   TestA/part\n\x16--- PASS: TestA/part (0.10s)\n\x16=== NAME  TestA\n" +
		"\x16--- PASS: TestA (1.50s)\n\x16=== NAME  \n"
	broken = "\x16=== RUN   TestB\n\x16=== RUN   TestB/one\n    b_test.go:7: the reason\n    b_test.go:8: and another\n" +
		"\x16--- FAIL: TestB/one (0.10s)\n\x16=== NAME  TestB\n\x16--- FAIL: TestB (0.10s)\n\x16=== NAME  \n"
	mended = "\x16=== RUN   TestB\n\x16--- PASS: TestB (0.10s)\n\x16=== NAME  \n"
	none   = "\x16=== RUN   TestD\n\x16=== RUN   TestD/udp_lite\n    d_test.go:7: " + lab.Lacks + "UDP-Lite: socket: protocol not supported\n" +
		"\x16--- SKIP: TestD/udp_lite (0.00s)\n\x16=== NAME  TestD\n\x16--- PASS: TestD (0.10s)\n\x16=== NAME  \n"
	unrun = "\x16=== RUN   TestE\n    e_test.go:7: needs a program\n\x16--- SKIP: TestE (0.00s)\n\x16=== NAME  \n"
	good  = passed + "\x16PASS\n"
	bad   = passed + broken + "\x16FAIL\n"
)

// ran is the log of a machine that ran these steps: name, exit status, output.
func ran(steps ...[3]string) string {
	log := fmt.Sprintf("### kernel 6.1.0\n### plan %d\n", len(steps))
	for _, s := range steps {
		log += fmt.Sprintf("### run %s\n%s\n### end %s %s 7\n", s[0], s[2], s[0], s[1])
	}
	return log
}

var twoSteps = []step{{name: "proxy", dir: "/d", test: "/proxy.test"}, {name: "plugin", dir: "/e", test: "/plugin.test"}}

func TestReport(t *testing.T) {
	fails := ran([3]string{"proxy", "1", bad}, [3]string{"plugin", "0", good})
	died := "\x16=== RUN   TestC\n\x16--- FAIL: TestC (0.1s)\npanic: oh\n"
	for name, tt := range map[string]struct {
		log  string
		run  []string // the tests that are run again, if that is wanted
		more string   // log of the machine in which they are
		want []string // parts of what is printed
		not  string   // what is not printed
		fail bool
	}{
		"passed": {
			log:  ran([3]string{"proxy", "0", good}, [3]string{"plugin", "0", good}),
			want: []string{"Linux 6.1 (6.1.0, pkg)", "ok   proxy", "1 tests and   1 parts passed, 0 failed, 0 skipped, 7 s", " 2 tests and 2 parts passed, 0 failed\n"},
			not:  " tests or parts ",
		},
		"failed": {
			log: fails, run: []string{"proxy TestB"}, more: ran([3]string{"proxy TestB", "1", broken + "\x16FAIL\n"}),
			want: []string{"FAIL proxy ", "1 tests and   1 parts passed, 2 failed", "b_test.go:7: the reason", "ok   plugin", "first-again machine", "FAIL proxy TestB"},
			not:  "passed when", fail: true,
		},
		"failed, and passes alone": {
			log: fails, run: []string{"proxy TestB"}, more: ran([3]string{"proxy TestB", "0", mended + "\x16PASS\n"}),
			want: []string{"2nd  proxy ", "--- FAIL: TestB/one", "ok   proxy TestB", " 2 tests and 2 parts passed, 2 failed\n", " 1 test or part failed, and passed when it was run again, alone:\n       proxy TestB: b_test.go:7: the reason\n"},
		},
		"failed, and is skipped alone": {
			log: fails, run: []string{"proxy TestB"}, more: ran([3]string{"proxy TestB", "0", unrun + "\x16PASS\n"}),
			want: []string{"FAIL proxy "}, fail: true,
		},
		"failed, and the second machine dies": {
			log: fails, run: []string{"proxy TestB"}, more: "### kernel 6.1.0\n### plan 1\n",
			want: []string{"FAIL proxy ", "ended early"}, fail: true,
		},
		"lacks": {
			log:  ran([3]string{"proxy", "0", passed + none + "\x16PASS\n"}, [3]string{"plugin", "0", passed + none + unrun + "\x16PASS\n"}),
			want: []string{" 2 tests or parts lack their subject on this kernel:\n       proxy TestD/udp_lite: UDP-Lite: socket: protocol not supported\n       plugin TestD", " 1 test or part was skipped:\n       plugin TestE: e_test.go:7: needs a program\n"},
		},
		"died": {
			log: ran([3]string{"proxy", "2", passed + died}, [3]string{"plugin", "0", good}), want: []string{"FAIL proxy", "panic: oh"}, fail: true,
		},
		"died, and another failed": {
			log: ran([3]string{"proxy", "2", passed + died}, [3]string{"plugin", "1", bad}), want: []string{"FAIL proxy", "FAIL plugin"}, fail: true,
		},
		"too many": {
			log:  ran([3]string{"proxy", "1", bad + strings.ReplaceAll(broken, "TestB", "TestF") + strings.ReplaceAll(broken, "TestB", "TestG") + "\x16FAIL\n"}, [3]string{"plugin", "1", bad}),
			want: []string{"FAIL proxy", "FAIL plugin"}, fail: true,
		},
		"cut off":  {log: "### kernel 6.1.0\n### plan 1\n### run proxy\n" + passed, want: []string{"ended early"}, fail: true},
		"one less": {log: "### kernel 6.1.0\n### plan 2\n### run proxy\n" + good + "\n### end proxy 0 7\n", want: []string{"ended early"}, fail: true},
		"nothing":  {log: "", want: []string{"ended early"}, fail: true},
	} {
		for _, secondTry := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", name, secondTry), func(t *testing.T) {
				var again []string
				h := try("first", twoSteps, secondTry, func(name string, steps []step) (string, error) {
					if name == "first" {
						return tt.log, nil
					}
					for _, s := range steps {
						again = append(again, s.name)
					}
					return tt.more, nil
				})
				r := result{kernel{version: "6.1", pkg: "pkg"}, []half{h}}
				var out bytes.Buffer
				r.print(&out)
				if !secondTry {
					if again != nil || r.failed() != (tt.fail || tt.more != "") {
						t.Errorf("failed is %v, and %v ran again", r.failed(), again)
					}
					return
				}
				if r.failed() != tt.fail || !slices.Equal(again, tt.run) {
					t.Errorf("failed is %v, and %v ran again, want %v", r.failed(), again, tt.run)
				}
				for _, w := range tt.want {
					if !strings.Contains(out.String(), w) {
						t.Errorf("no %q in:\n%s", w, &out)
					}
				}
				if tt.not != "" && strings.Contains(out.String(), tt.not) {
					t.Errorf("%q in:\n%s", tt.not, &out)
				}
			})
		}
	}
}

// TestAlone: what is run again is one test, with all its parts.
func TestAlone(t *testing.T) {
	got := step{name: "proxy", dir: "/d", command: "x", test: "/proxy.test"}.alone("TestB")
	want := step{name: "proxy TestB", dir: "/d", command: "/proxy.test" + testFlags + " -test.run='^TestB$'", test: "/proxy.test"}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
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
