package conflist_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
)

const entry = `{"type":"tproxy-cni","mode":"nat","proxyPort":5000,"capabilities":{"io.kubernetes.cri.pod-annotations":true}}`

// TestInsertRepairs: what others may have done to the entry.
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
