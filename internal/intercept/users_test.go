package intercept

import (
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestHostUsersFalse: a pod whose network namespace belongs to a user namespace of its own
// is programmed but for the rules that take an id, and what a process within it has
// programmed is right and no obstacle.
func TestHostUsersFalse(t *testing.T) {
	const env = "REDIRECT_TEST_USERS"
	if mode := os.Getenv(env); mode != "" {
		if err := Apply("/proc/self/ns/net", bestEffort(contract.Mode(mode))); err != nil {
			t.Fatal(err)
		}
		return
	}
	lab.Need(t, "nft", "ip", "nsenter")
	answers := func(lines string) string {
		return "0:\tfrom all uidrange 7089-7089 lookup main suppress_ifgroup default\n" + lines
	}
	for _, mode := range []contract.Mode{contract.ModeNAT, contract.ModeTProxy} {
		t.Run(string(mode), func(t *testing.T) {
			c := usual(t, mode)
			pod, usual := lab.NewInUserNS(t, "pod"), newPod(t)
			wire(t, pod)
			pod.Up()
			before := state(pod)
			apply(t, usual, c)
			want := state(usual)
			for _, rules := range []string{"ip rule", "ip -6 rule"} {
				want[rules] = strings.Replace(want[rules], answers(""), "", 1)
			}
			is := func(when string, want map[string]string) {
				t.Helper()
				if diff := cmp.Diff(want, state(pod)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", when, diff)
				}
			}
			check := func() {
				t.Helper()
				if err := Check(pod.Path(), c, nil); err != nil {
					t.Errorf("check says %v", err)
				}
			}
			for range 2 {
				apply(t, pod, c)
				is("programmed", want)
				check()
			}

			inside(t, pod, env+"="+string(mode), os.Args[0], "-test.run=^TestHostUsersFalse$")
			within := maps.Clone(want)
			within["ip rule"] = strings.Replace(want["ip rule"], "32766:", answers("32766:"), 1)
			within["ip -6 rule"] = strings.Replace(want["ip -6 rule"], "32766:", answers("32766:"), 1)
			is("programmed from within", within)
			check()
			apply(t, pod, c)
			is("and from outside", within)

			for range 2 {
				if err := Remove(pod.Path(), c.Interface); err != nil {
					t.Fatal(err)
				}
			}
			if got := pod.Run("ip", "-6", "rule"); !strings.HasPrefix(got, "0:\tfrom all lookup local\n"+answers("32766:")) {
				t.Errorf("after Remove:\n%s", got)
			}
			for _, family := range []string{"-4", "-6"} {
				inside(t, pod, "ip", family, "rule", "del", "pref", "0", "uidrange", "7089-7089", "table", "main")
			}
			is("taken out", before)
		})
	}
}

// inside runs a program as root of the user namespace to which the pod belongs.
func inside(t *testing.T, pod *lab.NS, args ...string) {
	t.Helper()
	f, err := os.Open(pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	users := os.NewFile(uintptr(fd), "user namespace")
	defer users.Close()
	cmd := exec.Command("nsenter", append([]string{"--user=/proc/self/fd/3", "--net=" + pod.Path(), "env"}, args...)...)
	cmd.ExtraFiles = []*os.File{users}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
}
