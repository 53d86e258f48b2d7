package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// FuzzText: whatever answers at the sidecar's port, what is shown of it are lines without
// control characters.
func FuzzText(f *testing.F) {
	for _, d := range []Document{
		{Mode: "nat", Version: "v1"},
		{Mode: "\x1b[2J\n", Readiness: Readiness{Reason: "\x1b", Text: "\u202e", Cure: "a\nb"}, Guard: "\x07"},
	} {
		raw, err := json.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"mode":"nat","counters":{"closed":{"\u001b":1},"dial_errors":{"\n":2}},"live":{"connections":[{"state":"\u009b"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := Indent(raw); err != nil {
			return
		}
		var d Document
		if json.Unmarshal(raw, &d) != nil {
			return
		}
		var out bytes.Buffer
		d.Text(&out, false)
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf)) }); i >= 0 {
			t.Errorf("%q at %d of\n%q", out.String()[i:min(i+20, out.Len())], i, out.String())
		}
	})
}
