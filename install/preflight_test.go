package main

import (
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestPreflightLeast: preflight with CAP_SYS_ADMIN and CAP_NET_ADMIN, without any
// capability through a user namespace, and where that is refused as well.
func TestPreflightLeast(t *testing.T) {
	lab.Need(t, "setpriv", "unshare")
	for _, tc := range []struct {
		name, caps string
		maxUserNS  string
		want       []string
	}{
		{"capabilities", "-all,+sys_admin,+net_admin", "", []string{"kernel: mode nat works", "kernel: mode tproxy works"}},
		{"user namespace", "-all", "", []string{"kernel: mode nat works", "kernel: mode tproxy works"}},
		{"neither", "-all", "0", []string{"kernel: unknown: it takes CAP_SYS_ADMIN and CAP_NET_ADMIN, or a user namespace"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newTestNode(t, "10-flannel.conflist")
			s := n.command("install", "--listen", "127.0.0.1:0", "--once=false")
			front := []string{"setpriv", "--bounding-set", tc.caps, "--inh-caps", "-all", "--ambient-caps", "-all", "--no-new-privs"}
			if tc.maxUserNS != "" {
				// A limit of a user namespace of the test's own.
				front = append([]string{
					"unshare", "--user", "--map-root-user", "sh", "-c",
					`echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"`, "sh",
				}, front...)
			}
			args := append(front, s.Args...)
			path, err := lab.Look(args[0])
			must(t, err)
			s.Path, s.Args = path, args
			n.serve(s).want("/readyz", 200, tc.want...)
		})
	}
}
