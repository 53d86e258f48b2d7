package conflist_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
)

const entry = `{"type":"tproxy-cni","mode":"nat","proxyPort":5000,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`

// testdata are the files of ../testdata whose names end in suffix.
func testdata(t testing.TB, suffix string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("../testdata/*" + suffix)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	files := map[string][]byte{}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = data
	}
	return files
}

// laws are what must hold for every list without an entry of ours.
func laws(t *testing.T, list, entry []byte) {
	t.Helper()
	before, err := libcni.NetworkConfFromBytes(list)
	if err != nil {
		t.Fatal(err)
	}
	once, err := conflist.Insert(list, entry)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := conflist.Insert(once, entry)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(once, twice) {
		t.Errorf("inserted twice:\n%s\nonce:\n%s", twice, once)
	}
	back, err := conflist.Remove(once)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, list) {
		t.Errorf("after insert and remove:\n%q\nwant\n%q", back, list)
	}

	after, err := libcni.NetworkConfFromBytes(once)
	if err != nil {
		t.Fatal(err)
	}
	n := len(before.Plugins)
	if len(after.Plugins) != n+1 || !conflist.Equal(after.Plugins[n].Bytes, entry) {
		t.Fatalf("our entry is not the last of %d plugins:\n%s", n+1, once)
	}
	for i, p := range before.Plugins {
		if !bytes.Equal(p.Bytes, after.Plugins[i].Bytes) {
			t.Errorf("plugin %d was %s\nis %s", i, p.Bytes, after.Plugins[i].Bytes)
		}
	}
	before.Plugins, before.Bytes, after.Plugins, after.Bytes = nil, nil, nil, nil
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the list's own fields (-before +after):\n%s", diff)
	}
}

func TestLawsOnRealLists(t *testing.T) {
	for name, list := range testdata(t, ".conflist") {
		t.Run(name, func(t *testing.T) { laws(t, list, []byte(entry)) })
	}
}

// TestLawsOnRandomLists shakes the white space and the elements.
func TestLawsOnRandomLists(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		laws(t, randomList(r), []byte(entry))
	}
}

func randomList(r *rand.Rand) []byte {
	ws := func() string { return []string{"", " ", "\n\t", "\r\n  ", "   \n"}[r.IntN(5)] }
	value := func() string {
		return []string{`1e400`[:3], `-0.0`, `"plugins"`, `{"plugins":[{"type":"x"}]}`, `[]`, `null`, `"],}\""`, `12345678901234567890`}[r.IntN(8)]
	}
	var plugins []string
	for range 1 + r.IntN(4) {
		plugins = append(plugins, ws()+`{"type"`+ws()+`:"p`+string(rune('a'+r.IntN(26)))+`","x":`+value()+`}`+ws())
	}
	fields := []string{
		`"name":` + ws() + `"net"`,
		`"plugins":` + ws() + `[` + strings.Join(plugins, ",") + `]`,
		`"cniVersion":"0.4.0"`,
		`"other":` + value(),
	}
	r.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	return []byte(ws() + "{" + ws() + strings.Join(fields, ws()+","+ws()) + ws() + "}" + ws())
}

func FuzzInsert(f *testing.F) {
	for _, list := range testdata(f, ".conflist") {
		f.Add(list)
		with, err := conflist.Insert(list, []byte(entry))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(with)
	}
	f.Add([]byte(`{"name":"n","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`))
	f.Add([]byte(`{"name":"n","plug\u0069ns":[{"TYPE":"a"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := conflist.Parse(data)
		if err != nil {
			if _, err := conflist.Insert(data, []byte(entry)); err == nil {
				t.Error("inserted into a list that does not parse")
			}
			return
		}
		if !l.Has() {
			laws(t, data, []byte(entry))
			return
		}
		with, err := conflist.Insert(data, []byte(entry))
		if errors.Is(err, conflist.ErrAlone) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if l, err = conflist.Parse(with); err != nil || l.Check([]byte(entry)) != conflist.None {
			t.Errorf("inserted, but %v:\n%s", err, with)
		}
		without, err := conflist.Remove(with)
		if err != nil {
			t.Fatal(err)
		}
		if l, err = conflist.Parse(without); err != nil || l.Has() {
			t.Errorf("removed, but %v:\n%s", err, without)
		}
	})
}

// TestInsertRepairs: what others may have made of our entry.
func TestInsertRepairs(t *testing.T) {
	list := func(plugins ...string) []byte {
		return []byte(`{"name":"n","cniVersion":"1.0.0","plugins":[` + strings.Join(plugins, ", ") + `]}`)
	}
	const base, other, old = `{"type":"bridge"}`, `{"type":"portmap"}`, `{"type":"tproxy-cni","mode":"tproxy"}`
	var spread bytes.Buffer
	if err := json.Indent(&spread, []byte(entry), "", "    "); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		in    []byte
		fault conflist.Fault
		want  []byte
	}{
		{"right", list(base, other, entry), conflist.None, list(base, other, entry)},
		{"not last", list(base, entry, other), conflist.None, list(base, entry, other)},
		{"reformatted", list(base, spread.String()), conflist.None, list(base, spread.String())},
		{"missing", list(base, other), conflist.Missing, list(base, other, entry)},
		{"changed", list(base, old, other), conflist.Changed, list(base, entry, other)},
		{"first", list(entry, base, other), conflist.Position, list(base, other, entry)},
		{"twice", list(base, entry, other, entry), conflist.Duplicate, list(base, other, entry)},
		{"twice, old", list(old, base, old), conflist.Duplicate, list(base, entry)[:0:0]},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := conflist.Parse(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Check([]byte(entry)); got != c.fault {
				t.Errorf("fault %q, want %q", got, c.fault)
			}
			got, err := conflist.Insert(c.in, []byte(entry))
			if err != nil {
				t.Fatal(err)
			}
			if l, err = conflist.Parse(got); err != nil || l.Check([]byte(entry)) != conflist.None {
				t.Errorf("still wrong (%v): %s", err, got)
			}
			if len(c.want) > 0 && !bytes.Equal(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAlone(t *testing.T) {
	list := []byte(`{"name":"n","plugins":[` + entry + `]}`)
	if _, err := conflist.Remove(list); !errors.Is(err, conflist.ErrAlone) {
		t.Errorf("remove: %v", err)
	}
	if _, err := conflist.Insert(list, []byte(entry)); !errors.Is(err, conflist.ErrAlone) {
		t.Errorf("insert: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, data := range []string{
		``, `{`, `null`, `[]`, "\ufeff" + `{"name":"n","plugins":[{"type":"a"}]}`,
		`{"name":"n"}`, `{"name":"n","plugins":[]}`, `{"name":"n","plugins":{}}`,
		`{"name":"","plugins":[{"type":"a"}]}`, `{"plugins":[{"type":"a"}]}`,
		`{"name":"n","plugins":[{}]}`, `{"name":"n","plugins":["a"]}`,
		`{"name":"n","plugins":[{"type":"a"}]}{}`,
		`{"name":"n","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}`,
	} {
		if l, err := conflist.Parse([]byte(data)); err == nil {
			t.Errorf("parsed %s: %+v", data, l)
		}
	}
}

// TestConvert: the list means what libcni makes of the single plugin, and holds
// its bytes.
func TestConvert(t *testing.T) {
	confs := testdata(t, ".conf")
	for name, conf := range testdata(t, ".json") {
		confs[name] = conf
	}
	for name, conf := range confs {
		t.Run(name, func(t *testing.T) {
			single, err := libcni.NetworkPluginConfFromBytes(conf)
			if err != nil {
				t.Fatal(err)
			}
			//lint:ignore SA1019 runtimes do so as long as there are such files
			want, err := libcni.ConfListFromConf(single)
			if err != nil {
				t.Fatal(err)
			}
			list, err := conflist.Convert(conf, []byte(entry))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(list, bytes.TrimSpace(conf)) {
				t.Errorf("the plugin's bytes are not in\n%s", list)
			}
			got, err := libcni.NetworkConfFromBytes(list)
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != want.Name || got.CNIVersion != want.CNIVersion || len(got.Plugins) != 2 {
				t.Errorf("got %s %s with %d plugins", got.Name, got.CNIVersion, len(got.Plugins))
			}
			if !bytes.Equal(got.Plugins[0].Bytes, want.Plugins[0].Bytes) {
				t.Errorf("plugin is %s\nwant %s", got.Plugins[0].Bytes, want.Plugins[0].Bytes)
			}
			if !conflist.Converted(list, conf, []byte(entry)) {
				t.Error("not recognized as converted")
			}
			if conflist.Converted(list, bytes.Replace(conf, []byte("true"), []byte("false"), 1), []byte(entry)) {
				t.Error("recognized although the original has changed")
			}
		})
	}
}

func TestConvertedKeepsGuests(t *testing.T) {
	conf := testdata(t, ".conf")["10-bridge.conf"]
	list, err := conflist.Convert(conf, []byte(entry))
	if err != nil {
		t.Fatal(err)
	}
	guest := slices.Concat(bytes.TrimSuffix(list, []byte("\n  ]\n}\n")), []byte(",\n{\"type\":\"linkerd-cni\"}\n]}"))
	if !conflist.Converted(guest, conf, []byte(entry)) {
		t.Errorf("a plugin that another chained into the list makes it wrong:\n%s", guest)
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":[true]}`, ` { "b": [true], "a": 1 }`, true},
		{`9007199254740993`, `9007199254740992`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{`, `{`, false},
	} {
		if got := conflist.Equal([]byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s and %s: %t", c.a, c.b, got)
		}
	}
}
