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

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
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
	{"integration", "TestFault(ADD|Accept|Application|Calls|Clock|Killed.*|Log|Memory)", "injects what the kernel answers, or a SIGKILL; the kernel's own faults, in links, addresses, queues and conntrack, are tested"},
	{"integration", "TestSkew.*", "builds the release before from git's history; it needs no more of the kernel than this one"},
	{"plugin", "TestNoExec", "asks the go command what the plugin links; the kernel has no part in it"},
	{"integration", "TestRecipes|TestRecipeByClient|TestPooling|TestFront|TestLoadBalancers", "other proxies use what the sidecar uses of the kernel"},
}

//go:embed tests.sh
var testsScript string

// step is a line of the plan: a name, a directory and the command to run in it.
type step struct {
	name, dir, command string

	test string // path in the guest of the test binary that the command runs; or empty
}

// alone is a step that runs a single test of the step's.
func (s step) alone(test string) step {
	return step{name: s.name + " " + test, dir: s.dir, command: s.test + testFlags + " -test.run='^" + test + "$'", test: s.test}
}

// preflights check the installer's preflight: nothing is missing in the kernel but the
// hook for the whole packet guard, where it lacks that; and, with its modules kept from
// loading, the missing ones are named.
var preflights = []step{
	{name: "preflight, no modules", dir: "/", command: `ip link add lab0 type veth; ip link del lab0; nft 'add table inet lab; add counter inet lab c; delete table inet lab'; ` +
		`m=$(cat /proc/sys/kernel/modprobe); echo /bin/false > /proc/sys/kernel/modprobe; ` +
		`/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | grep -q '"nft socket","nft tproxy"'; e=$?; ` +
		`echo $m > /proc/sys/kernel/modprobe; (exit $e)`},
	{name: "preflight", dir: "/", command: `/run/kernels/bin/tproxy-install preflight | tee /dev/stderr | ` +
		`grep -F '{"mode":"nat","missing":[],"packet_guard":"'$packet_guard'"' | grep -qF '{"mode":"tproxy","missing":[],"packet_guard":"'$packet_guard'"'`},
}

// halves are the plans, by name: each kernel runs them in two machines at once. The
// second has the last of packages.
var halves = []string{"first", "second"}

// compile puts the programs and the tests in dir and returns the plan of each half.
func compile(ctx context.Context, source, dir, only string) (plan map[string][]step, err error) {
	if err := programs.Build(ctx, source, filepath.Join(dir, "bin")); err != nil {
		return nil, err
	}
	if err := programs.BuildLacking(ctx, source, filepath.Join(dir, "bin")); err != nil {
		return nil, err
	}
	plan = map[string][]step{"first": slices.Clone(preflights)}
	for i, pkg := range packages {
		test := strings.ReplaceAll(pkg.path, "/", "-") + ".test"
		if err := goTool(ctx, source, "test", "-c", "-o", filepath.Join(dir, test), "./"+pkg.path); err != nil {
			return nil, err
		}
		half := halves[0]
		if i == len(packages)-1 {
			half = halves[1]
		}
		s := step{name: pkg.path, dir: filepath.Join(source, pkg.path), test: "/run/kernels/" + test}
		s.command = s.test + testFlags + choice(pkg.path, cmp.Or(only, pkg.tests), pkg.elsewhere)
		plan[half] = append(plan[half], s)
	}
	return plan, os.WriteFile(filepath.Join(dir, "tests.sh"), []byte(testsScript), 0o644)
}

// testFlags run three tests at once, since tests mostly wait. If one hangs the binary
// ends with its stack trace.
const testFlags = " -test.v=test2json -test.timeout=40m -test.parallel=3"

// choice are the flags that choose a package's tests.
func choice(pkg, only, elsewhere string) (c string) {
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

// mayLack are the features that a version is known to lack.
var mayLack = map[string][]lab.Feature{
	"5.10": {lab.EgressHook, lab.TableOwner, lab.RawMark, lab.BigTCP, lab.MPTCP}, // Debian built it without MPTCP
	newest: {lab.UDPLite},
}

// environment is what tests.sh reads: the variables of the tests, and where the
// project lies.
func environment(source, version string) string {
	guard := contract.GuardNFT
	var lacks []string
	for _, f := range mayLack[version] {
		lacks = append(lacks, f.Name)
		if f.Name == lab.EgressHook.Name {
			guard = contract.GuardTC
		}
	}
	return "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI=1\n" +
		fmt.Sprintf("export LAB_PROGRAMS=/run/kernels/bin LAB_SLOW=%d %s='%s'\n", slow, lab.MayLack, strings.Join(lacks, ",")) +
		fmt.Sprintf("source='%s' packet_guard=%s\n", source, guard)
}

// planText is the plan as tests.sh reads it.
func planText(steps []step) (text string) {
	for _, s := range steps {
		text += fmt.Sprintf("%s\t%s\t%s\n", s.name, s.dir, s.command)
	}
	return text
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
