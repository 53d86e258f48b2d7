package main

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/programs"
)

// slow is the value of LAB_SLOW on an emulated processor: see package lab.
const slow = 40

// packages are those whose tests touch the kernel, which of their tests do, all if
// empty, and which of these another line has.
var packages = []struct{ path, tests, elsewhere string }{
	{"internal/settings", "", ""},
	{"internal/intercept", "", ""},
	{"plugin", "", ""},
	{"proxy", "", ""},
	{"proxy/dial", "", ""},
	{"proxy/relay", "", ""},
	{"proxy/sock", "", ""},
	{"install", "TestServiceFlood$|TestLock|TestRepairSparesTheNode$", ""}, // the rest is about the content of files
	{"install/disk", "TestLock", ""},
	{"integration", "", "^Test[A-S]"},
	{"integration", "", "^Test[T-Z]"}, // takes half of the time
}

// leftOut are the tests that do not run here, with the reason.
var leftOut = []struct{ pkg, test, because string }{
	{"integration", "TestPage", "runs in a browser, for minutes on an emulated processor; the kernel has no part in it"},
	{"plugin", "TestNoExec", "asks the go command what the plugin links; the kernel has no part in it"},
	{"integration", "TestRecipes|TestRecipeByClient|TestPooling|TestFront|TestLoadBalancers", "other proxies use what the sidecar uses of the kernel"},
}

//go:embed tests.sh
var testsScript string

// step is a line of the plan: a name, a directory and the command to run in it.
type step struct{ name, dir, command string }

// preflights check the installer's preflight: nothing is missing in the kernel; and,
// with its modules kept from loading, the missing ones are named.
var preflights = []step{
	{"preflight, no modules", "/", `ip link add lab0 type veth; ip link del lab0; nft list tables; ` +
		`m=$(cat /proc/sys/kernel/modprobe); echo /bin/false > /proc/sys/kernel/modprobe; ` +
		`/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | grep -q '"nft socket","nft tproxy"'; e=$?; ` +
		`echo $m > /proc/sys/kernel/modprobe; (exit $e)`},
	{"preflight", "/", `/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | ` +
		`grep -qF '[{"mode":"nat","missing":[]},{"mode":"tproxy","missing":[]}]'`},
}

// halves are the plans, by name: each kernel runs them in two machines at once. The
// second has the last of packages.
var halves = []string{"first", "second"}

// compile puts the programs, the tests and the plans for tests.sh in dir.
func compile(ctx context.Context, source, dir, only string) error {
	if err := programs.Build(ctx, source, filepath.Join(dir, "bin")); err != nil {
		return err
	}
	plan := map[string][]step{"first": slices.Clone(preflights)}
	for i, pkg := range packages {
		test := strings.ReplaceAll(pkg.path, "/", "-") + ".test"
		if err := goTool(ctx, source, "test", "-c", "-o", filepath.Join(dir, test), "./"+pkg.path); err != nil {
			return err
		}
		half := halves[0]
		if i == len(packages)-1 {
			half = halves[1]
		}
		command := testCommand(pkg.path, test, cmp.Or(only, pkg.tests), pkg.elsewhere)
		plan[half] = append(plan[half], step{pkg.path, filepath.Join(source, pkg.path), command})
	}
	env := "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI=1\n" +
		fmt.Sprintf("export LAB_PROGRAMS=/run/kernels/bin LAB_SLOW=%d\nsource='%s'\n", slow, source)
	files := map[string]string{"environment": env, "tests.sh": testsScript}
	for half, steps := range plan {
		for _, s := range steps {
			files["plan."+half] += fmt.Sprintf("%s\t%s\t%s\n", s.name, s.dir, s.command)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// testCommand runs a test binary, three tests at once, since tests mostly wait. If one
// hangs the binary ends with its stack trace.
func testCommand(pkg, test, only, elsewhere string) string {
	c := "/run/kernels/" + test + " -test.v=test2json -test.timeout=40m -test.parallel=3"
	var skip []string
	if elsewhere != "" {
		skip = append(skip, elsewhere)
	}
	for _, l := range leftOut {
		if l.pkg == pkg {
			skip = append(skip, "^("+l.test+")$")
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
