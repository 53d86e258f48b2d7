package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestForeignFiles: whatever is in the directory of configurations, no attempt
// blocks on it or reads more than the limit; the error or a note names it, and
// nothing is changed.
func TestForeignFiles(t *testing.T) {
	sparse := func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte(nodetest.ValidList), 0o644))
		must(t, os.Truncate(path, 1<<30))
	}
	for _, tc := range []struct {
		name    string
		make    func(t *testing.T, n *nodetest.Node)
		install string // its error, none if empty
		remove  string // uninstall's
		note    string
	}{
		{
			name: "1 GiB", install: "05-x.conflist is not a regular file of at most 1 MiB", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) { sparse(t, filepath.Join(n.ConfDir, "05-x.conflist")) },
		},
		{
			name: "1 GiB behind the list that counts", remove: "90-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) { sparse(t, filepath.Join(n.ConfDir, "90-x.conflist")) },
		},
		{
			name: "pipe", install: "05-x.conflist is not a regular file", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, syscall.Mkfifo(filepath.Join(n.ConfDir, "05-x.conflist"), 0o600))
			},
		},
		{
			name: "pipe for a single plugin", remove: "90-x.conf cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, syscall.Mkfifo(filepath.Join(n.ConfDir, "90-x.conf"), 0o600))
			},
		},
		{
			name: "pipe that was set aside",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, syscall.Mkfifo(filepath.Join(n.ConfDir, "x.cilium_bak"), 0o600))
			},
		},
		{
			name: "1 GiB that was set aside",
			make: func(t *testing.T, n *nodetest.Node) { sparse(t, filepath.Join(n.ConfDir, "x.cilium_bak")) },
		},
		{
			name: "socket", install: "05-x.conflist cannot be read by the installer (the runtime may be able to): open ", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				ln, err := net.Listen("unix", filepath.Join(n.ConfDir, "05-x.conflist"))
				must(t, err)
				t.Cleanup(func() { ln.Close() })
			},
		},
		{
			name: "device", install: "05-x.conflist is not a regular file", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, unix.Mknod(filepath.Join(n.ConfDir, "05-x.conflist"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
			},
		},
		{
			name: "link to an endless device", install: "05-x.conflist is not a regular file", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, os.Symlink("/dev/zero", filepath.Join(n.ConfDir, "05-x.conflist")))
			},
		},
		{
			name: "link to itself", install: "too many levels of symbolic links", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, os.Symlink("05-x.conflist", filepath.Join(n.ConfDir, "05-x.conflist")))
			},
		},
		{
			name: "link to a directory", install: "05-x.conflist is not a regular file", remove: "05-x.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, os.Symlink(n.BinDir, filepath.Join(n.ConfDir, "05-x.conflist")))
			},
		},
		{
			name: "directory", note: "05-x.conflist is a directory: skipped",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, os.Mkdir(filepath.Join(n.ConfDir, "05-x.conflist"), 0o755))
			},
		},
		{
			name: "1,000 configurations more", install: "there are more than 1000", remove: "there are more than 1000",
			make: func(t *testing.T, n *nodetest.Node) {
				for i := range 1000 {
					n.WriteOldConf(fmt.Sprintf("20-%d.conf", i), "{")
				}
			},
		},
		{
			name: "30,000 files of others",
			make: func(t *testing.T, n *nodetest.Node) {
				for i := range 30000 {
					must(t, os.Link(filepath.Join(n.ConfDir, "10-a.conflist"), filepath.Join(n.ConfDir, fmt.Sprintf("%d.txt", i))))
				}
			},
		},
		{
			name: "directory with a temporary file's name",
			make: func(t *testing.T, n *nodetest.Node) {
				must(t, os.Mkdir(filepath.Join(n.ConfDir, disk.TempPrefix+"x"+disk.TempSuffix), 0o755))
			},
		},
		{
			name: "2,000 links",
			make: func(t *testing.T, n *nodetest.Node) {
				for i := range 2000 {
					must(t, os.Symlink(n.BinDir, filepath.Join(n.ConfDir, fmt.Sprintf("link%d", i))))
				}
			},
		},
		{
			name: "17 MiB before the list that counts", install: "05-16.conflist cannot be read by the installer (the runtime may be able to): the configurations before it already have 16 MiB", remove: "10-a.conflist cannot be read by the installer",
			make: func(t *testing.T, n *nodetest.Node) {
				for i := range 17 {
					n.WriteOldConf(fmt.Sprintf("05-%02d.conflist", i), "{"+strings.Repeat(" ", 1<<20-1))
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if os.Geteuid() != 0 && tc.name == "device" {
				lab.Need(t)
			}
			n := nodetest.New(t)
			n.WriteConf("10-a.conflist", nodetest.ValidList)
			tc.make(t, n)
			before := nodetest.Names(t, n.ConfDir)
			for _, verb := range []string{"install", "uninstall"} {
				want := tc.install
				if verb == "uninstall" {
					want = tc.remove
				}
				ends(t, verb, func() {
					var o node.Outcome
					var err error
					if verb == "install" {
						o, err = n.Installer().Install(context.Background())
					} else {
						o, err = n.Installer().Uninstall(context.Background(), node.Remove)
					}
					if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
						t.Errorf("%s: error is %v, want %q", verb, err, want)
					}
					if tc.note != "" && verb == "install" && !strings.Contains(strings.Join(o.Notes, "\n"), tc.note) {
						t.Errorf("%s: notes %q, want %q", verb, o.Notes, tc.note)
					}
				})
				// The watch of a directory has its own walk through it.
				ends(t, "watch", func() { node.NewWatcher(slog.New(slog.DiscardHandler), time.Hour, n.ConfDir).Close() })
			}
			if after := nodetest.Names(t, n.ConfDir); !cmp.Equal(before, after) {
				t.Errorf("%d files, were %d", len(after), len(before))
			}
		})
	}
}

// TestLease: a file's owner may lease it, and opening it then blocks for 45 s each
// time. The installer does not block: it reports the lease and tries again later.
func TestLease(t *testing.T) {
	n := nodetest.New(t)
	n.WriteConf("10-a.conflist", nodetest.ValidList)
	f, err := os.OpenFile(filepath.Join(n.ConfDir, "10-a.conflist"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	must(t, err)
	var got error
	ends(t, "install", func() { _, got = n.Installer().Install(context.Background()) })
	if got == nil || !strings.Contains(got.Error(), "another process holds a lease on it") {
		t.Errorf("error is %v", got)
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	must(t, err)
	_, err = n.Installer().Install(context.Background())
	must(t, err)
}
