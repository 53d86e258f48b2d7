package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// TestNoNetNS: a path that is not a network namespace is an error at once, without
// blocking, as on a pipe, and without a side effect; a DEL has nothing to do.
func TestNoNetNS(t *testing.T) {
	node := lab.New(t, "node")
	dir, err := os.MkdirTemp("", "netns") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in := func(name string, make func(path string) error) string {
		path := filepath.Join(dir, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct{ name, path, want string }{
		{"pipe", in("pipe", func(p string) error { return syscall.Mkfifo(p, 0o600) }), "it is a pipe"},
		{"link to a pipe", in("link", func(p string) error { return os.Symlink("pipe", p) }), "it is a pipe"},
		{"socket", in("socket", func(p string) error { _, err := net.Listen("unix", p); return err }), "it is a socket"},
		{"file", in("file", func(p string) error { return os.WriteFile(p, nil, 0o600) }), "it is a regular file"},
		{"file of proc", "/proc/self/status", "it is a regular file"},
		{"directory", dir, "it is a directory"},
		{"terminal", in("tty", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 0))) }), "it is a character device"},
		{"disk", in("disk", func(p string) error { return unix.Mknod(p, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) }), "it is a block device"},
		{"link to nothing", in("dangling", func(p string) error { return os.Symlink("nowhere", p) }), "no such file"},
		{"link to itself", in("loop", func(p string) error { return os.Symlink("loop", p) }), "too many levels"},
		{"below a file", "/etc/passwd/x", "not a directory"},
		{"too long", "/" + strings.Repeat("x", 5000), "file name too long"},
		{"mount namespace", "/proc/self/ns/mnt", "another kind"},
		{"user namespace", "/proc/self/ns/user", "another kind"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, mode := range []string{"nat", "tproxy"} {
				for _, verb := range []string{"ADD", "CHECK"} {
					a := call{command: verb, netns: tt.path, stdin: conf("1.1.0", dual, annotated("mode", mode))}.run(t, node)
					if a.code != types.ErrInvalidNetNS || !strings.Contains(a.msg, tt.want) || len(a.msg) > 300 {
						t.Errorf("%s: %+v", verb, a)
					}
				}
			}
			call{command: "DEL", netns: tt.path, stdin: conf("1.1.0", dual, annotated("mode", "nat"))}.ok(t, node)
			left := conf("1.1.0", dual, nil)
			equalJSON(t, left["prevResult"], call{command: "ADD", netns: tt.path, stdin: left}.ok(t, node))
		})
	}
}

// TestInterfaceNames that are refused before anything is changed. A pod that is
// left alone has none.
func TestInterfaceNames(t *testing.T) {
	n := newPod(t)
	in := conf("1.1.0", dual, annotated("mode", "nat"))
	call{command: "ADD", netns: n.Pod.Path(), stdin: in}.ok(t, n.Node)
	before := state(n.Pod)
	for _, name := range []string{
		"lo", "0123456789abcdef", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\nb", "a\x1b[0m", "a\x7f", "\u202ea", "\u009b", "\xff", "a\u00a0",
	} {
		for _, mode := range []string{"nat", "tproxy"} {
			in := conf("1.1.0", dual, annotated("mode", mode))
			for _, verb := range []string{"ADD", "CHECK"} {
				a := call{command: verb, netns: n.Pod.Path(), ifname: name, stdin: in}.run(t, n.Node)
				if a.code != types.ErrInvalidEnvironmentVariables || !strings.Contains(strings.ToLower(a.msg), "interface") {
					t.Errorf("%s %+q: %+v", verb, name, a)
				}
				shown(t, a)
			}
		}
	}
	call{command: "DEL", netns: n.Pod.Path(), ifname: "lo", stdin: in}.ok(t, n.Node)
	call{command: "ADD", netns: n.Pod.Path(), ifname: "lo", stdin: conf("1.1.0", dual, nil)}.ok(t, n.Node)
	if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
		t.Errorf("refused, and yet something changed:\n%s", diff)
	}
}

// spaces is a stdin that goes on for long.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestStdin that no runtime sends.
func TestStdin(t *testing.T) {
	node := lab.New(t, "node")
	const head = `{"cniVersion":"1.1.0","name":"n",`
	for _, tt := range []struct {
		name  string
		stdin any
		code  uint
		msg   string
	}{
		{"endless", io.LimitReader(spaces{}, 64<<20), types.ErrDecodingFailure, "stdin has more than 4 MiB"},
		{"as much as is read", head + `"x":"` + strings.Repeat("x", 4<<20-len(head)-7) + `"}`, types.ErrInvalidNetworkConfig, "prevResult is missing"},
		{"nothing", "", types.ErrDecodingFailure, "unexpected end"},
		{"deep", strings.Repeat("[", 1<<20), types.ErrDecodingFailure, "depth"},
		{"deep below", head + `"prevResult":` + strings.Repeat(`{"a":`, 1<<18), types.ErrDecodingFailure, "depth"},
		{"NUL", head + "\"\x00\":1}", types.ErrDecodingFailure, "invalid character"},
		{"no UTF-8", head[:len(head)-3] + "\xff\"}", types.ErrInvalidNetworkConfig, "invalid characters"},
		{"the last of two keys counts", head + `"mode":"nat","mode":"x","prevResult":{"cniVersion":"1.1.0"}}`, types.ErrInvalidNetworkConfig, `mode "x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := call{command: "ADD", netns: "/x", stdin: tt.stdin}.run(t, node)
			if a.code != tt.code || !strings.Contains(a.msg, tt.msg) {
				t.Errorf("%+v", a)
			}
			shown(t, a)
		})
	}
}

// shown holds an answer to what may be shown: bounded printable ASCII.
func shown(t *testing.T, a answer) {
	t.Helper()
	texts := []string{a.msg, a.details, a.stderr}
	if a.failed {
		texts = append(texts, a.stdout)
	}
	for _, text := range texts {
		if len(text) > 2*printable.MaxLine+300 {
			t.Errorf("%d bytes: %.300q", len(text), text)
		}
		if i := strings.IndexFunc(strings.ReplaceAll(text, "\n", ""), func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			t.Errorf("does not print: %.300q", text)
		}
	}
	if strings.Contains(strings.TrimSuffix(a.msg+a.details+strings.TrimSuffix(a.stderr, "\n"), "\n"), "\n") {
		t.Errorf("more than a line: %+v", a)
	}
}

// nasty is hostile text where a word is expected.
const nasty = "x\x1b]0;t\x07\x1b[2J\nlevel=ERROR msg=fake\r\n\u202e\u2066\u2028\u200b\u009b\x7f\xff\xc3 \U000e0041\"\\'; annotation"

// TestNothingForeignIsShownAsItIs: whatever is in the plugin's input, its output
// is bounded printable text, on stdout and stderr alike.
func TestNothingForeignIsShownAsItIs(t *testing.T) {
	n := newPod(t)
	all := "mode proxy-port proxy-uid admin-port include-inbound-ports exclude-inbound-ports exclude-source-cidrs packet-guard"
	set := func(change func(object)) object {
		in := conf("1.1.0", dual, annotated("mode", "nat"))
		change(in)
		return in
	}
	prev := func(key string, value any) object {
		return set(func(o object) { o["prevResult"].(object)[key] = value })
	}
	for _, s := range []struct{ name, text string }{
		{"short", nasty},
		{"long", strings.Repeat(nasty, 900)},
		{"list", strings.Repeat("a\x1b,", 999)},
		{"longer list", strings.Repeat(nasty+",", 1001)},
	} {
		var calls []call
		for _, name := range strings.Fields(all) {
			calls = append(calls, call{command: "ADD", stdin: conf("1.1.0", dual, annotated(name, s.text))})
		}
		many := annotated()
		for i := range 1000 {
			many["runtimeConfig"].(object)[contract.AnnotationsCapability].(map[string]string)[contract.AnnotationPrefix+s.text[:min(len(s.text), 200)]+string(rune('a'+i))] = s.text[:min(len(s.text), 500)]
		}
		for _, in := range []object{
			conf("1.1.0", dual, annotated(s.text, s.text)),
			conf("1.1.0", dual, many),
			set(func(o object) { o["runtimeConfig"] = object{contract.AnnotationsCapability: s.text} }),
			set(func(o object) { o["runtimeConfig"] = s.text }),
			set(func(o object) { o["name"] = s.text }),
			set(func(o object) { o["cniVersion"] = s.text }),
			set(func(o object) { o[s.text] = s.text }),
			set(func(o object) { o["mode"] = s.text }),
			set(func(o object) { o["excludeSourceCIDRs"] = []string{s.text, s.text} }),
			set(func(o object) { o["excludeSourceCIDRs"] = s.text }),
			set(func(o object) { o["proxyPort"] = object{s.text: s.text} }),
			set(func(o object) { o["prevResult"] = s.text }),
			prev("cniVersion", s.text), prev("ips", s.text), prev("ips", []object{{"address": s.text}}), prev("interfaces", s.text),
			prev("routes", []object{{"dst": s.text}}),
		} {
			for _, verb := range []string{"ADD", "CHECK", "STATUS"} {
				calls = append(calls, call{command: verb, stdin: in})
			}
		}
		in := conf("1.1.0", dual, annotated("mode", "nat"))
		for _, verb := range []string{"ADD", "CHECK", "DEL", "GC"} {
			calls = append(calls, call{command: verb, stdin: s.text})
			for _, name := range []string{"CNI_CONTAINERID", "CNI_ARGS", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "CNI_NETNS_OVERRIDE", "CNI_COMMAND"} {
				calls = append(calls, call{command: verb, stdin: in, env: []string{name + "=" + s.text}})
			}
		}
		t.Run(s.name, func(t *testing.T) {
			for _, c := range calls {
				c.netns = n.Pod.Path()
				a := c.run(t, n.Node)
				if shown(t, a); t.Failed() {
					t.Fatalf("%s %.300q: %.300q", c.command, c.env, a.stdout+a.stderr)
				}
			}
		})
	}
}

// TestNamesOfThePodsOwn: who may program the pod's kernel gives names to
// chains, and they come out at CHECK.
func TestNamesOfThePodsOwn(t *testing.T) {
	n := newPod(t)
	in := conf("1.1.0", dual, annotated("mode", "nat"))
	call{command: "ADD", netns: n.Pod.Path(), stdin: in}.ok(t, n.Node)
	addChain(t, n.Pod, "c\x1b[2J\nlevel=ERROR")
	a := call{command: "CHECK", netns: n.Pod.Path(), stdin: in}.run(t, n.Node)
	if want := `chain "c\x1b[2J\nlevel=ERROR" of table inet tproxy_cni is unexpected`; a.code != errDrift || a.msg != want {
		t.Errorf("%+v", a)
	}
}

// addChain adds one to our table, past nft's language.
func addChain(t *testing.T, pod *lab.NS, name string) {
	t.Helper()
	if err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddChain(&nftables.Chain{Name: name, Table: &nftables.Table{Name: contract.Table, Family: nftables.TableFamilyINet}})
		return conn.Flush()
	}); err != nil {
		t.Fatal(err)
	}
}

// TestOwnNamespace: the plugin's own, which is the node's, is refused, also for
// a pod that is left alone, and left alone at DEL, unless the runtime insists.
func TestOwnNamespace(t *testing.T) {
	n := newPod(t)
	before := state(n.Pod)
	in, alone := conf("1.1.0", dual, annotated("mode", "nat")), conf("1.1.0", dual, nil)
	do := func(verb string, stdin any, env ...string) answer {
		return call{command: verb, netns: n.Pod.Path(), stdin: stdin, env: env}.run(t, n.Pod)
	}
	for _, a := range []answer{do("ADD", in), do("CHECK", in), do("ADD", alone), do("ADD", in, "CNI_NETNS_OVERRIDE=0")} {
		if a.code != types.ErrInvalidNetNS || !strings.Contains(a.msg, "own network namespace") {
			t.Errorf("%+v", a)
		}
	}
	for _, insist := range []string{"CNI_NETNS_OVERRIDE=1", "CNI_NETNS_OVERRIDE=true"} {
		for _, a := range []answer{do("ADD", alone, insist), do("ADD", in, insist), do("CHECK", in, insist), do("DEL", in)} {
			if a.failed || a.stderr != "" {
				t.Errorf("%s: %+v", insist, a)
			}
		}
		if cmp.Equal(before, state(n.Pod)) {
			t.Error("the DEL that did not insist took something out")
		}
		if a := do("DEL", in, insist); a.failed || a.stderr != "" {
			t.Errorf("%s: %+v", insist, a)
		}
		if diff := cmp.Diff(before, state(n.Pod)); diff != "" {
			t.Errorf("before ADD and after DEL differ:\n%s", diff)
		}
	}
}
