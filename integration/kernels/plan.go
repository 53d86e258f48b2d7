package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// slow is what the tests are told of an emulated processor: see LAB_SLOW in
// package lab.
const slow = 40

// packages are those whose tests touch the kernel.
var packages = []string{"plugin/settings", "plugin/redirect", "plugin", "proxy", "integration"}

// leftOut are the tests that do not run here, each with its because.
var leftOut = []struct{ pkg, test, because string }{
	{"plugin", "TestNoExec", "asks the go command what the plugin links; the kernel has no part in it"},
}

// programs are what the tests start: ours, and those of the CNI project that
// are pinned in tools.mod.
var programs = map[string][]string{
	"go.mod": {"tproxy-cni=./plugin", "tproxy-proxy=./proxy", "echo-server=./echo-server", "tproxy-install=./install"},
	"tools.mod": {
		"cnitool=github.com/containernetworking/cni/cnitool",
		"ptp=github.com/containernetworking/plugins/plugins/main/ptp",
		"bridge=github.com/containernetworking/plugins/plugins/main/bridge",
		"host-local=github.com/containernetworking/plugins/plugins/ipam/host-local",
	},
}

//go:embed tests.sh
var testsScript string

// step is a line of the plan: a name, the folder that it runs in and what runs.
type step struct{ name, dir, command string }

// preflights are what the installer says of the kernel: nothing is missing; and
// of one that lacks something, which a packaged kernel is when nobody loads its
// modules for it.
var preflights = []step{
	{"preflight, no modules", "/", `ip link add lab0 type veth; ip link del lab0; nft list tables; ` +
		`m=$(cat /proc/sys/kernel/modprobe); echo /bin/false > /proc/sys/kernel/modprobe; ` +
		`/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | grep -q '"nft socket","nft tproxy"'; e=$?; ` +
		`echo $m > /proc/sys/kernel/modprobe; (exit $e)`},
	{"preflight", "/", `/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | ` +
		`grep -qF '[{"mode":"nat","missing":[]},{"mode":"tproxy","missing":[]}]'`},
}

// compile puts the programs, the tests and the plan for tests.sh in dir.
func compile(ctx context.Context, source, dir, only string) error {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for mod, list := range programs {
		for _, p := range list {
			name, pkg, _ := strings.Cut(p, "=")
			if err := goTool(ctx, source, "build", "-buildvcs=false", "-ldflags=-s -w", "-modfile="+mod, "-o", filepath.Join(bin, name), pkg); err != nil {
				return err
			}
		}
	}
	plan := slices.Clone(preflights)
	for _, pkg := range packages {
		test := strings.ReplaceAll(pkg, "/", "-") + ".test"
		if err := goTool(ctx, source, "test", "-c", "-o", filepath.Join(dir, test), "./"+pkg); err != nil {
			return err
		}
		plan = append(plan, step{pkg, filepath.Join(source, pkg), testCommand(pkg, test, only)})
	}
	var lines strings.Builder
	for _, s := range plan {
		fmt.Fprintf(&lines, "%s\t%s\t%s\n", s.name, s.dir, s.command)
	}
	env := "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI=1\n" +
		fmt.Sprintf("export LAB_PROGRAMS=/run/kernels/bin LAB_SLOW=%d\nsource='%s'\n", slow, source)
	for name, text := range map[string]string{"plan": lines.String(), "environment": env, "tests.sh": testsScript} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// testCommand runs a test binary: three tests at once, as much of a test is
// waiting. One that hangs ends the binary, with a trace of where.
func testCommand(pkg, test, only string) string {
	c := "/run/kernels/" + test + " -test.v=test2json -test.timeout=20m -test.parallel=3"
	var skip []string
	for _, l := range leftOut {
		if l.pkg == pkg {
			skip = append(skip, "^"+regexp.QuoteMeta(l.test)+"$")
		}
	}
	if len(skip) > 0 {
		c += " -test.skip='" + strings.Join(skip, "|") + "'"
	}
	if only != "" {
		c += " -test.run='" + only + "'"
	}
	return c
}

func goTool(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func printLeftOut(out io.Writer) {
	fmt.Fprintf(out, "\nOn an emulated processor the tests wait %d times longer and take a %dth of the connections and bytes. Left out:\n", slow, slow)
	for _, l := range leftOut {
		fmt.Fprintf(out, "  %s %s: %s\n", l.pkg, l.test, l.because)
	}
}
