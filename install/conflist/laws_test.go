package conflist_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// laws are what must hold for every list without an entry.
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
		t.Fatalf("the entry is not the last of %d plugins:\n%s", n+1, once)
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
	for name, list := range nodetest.Configs(t, ".conflist") {
		t.Run(name, func(t *testing.T) { laws(t, list, []byte(entry)) })
	}
}

// TestLawsOnRandomLists varies the white space and the elements.
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
	for _, list := range nodetest.Configs(f, ".conflist") {
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
