package explain

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// FuzzFacts: whatever was found out about a pod, there is a verdict, and what is shown are
// lines without control characters.
func FuzzFacts(f *testing.F) {
	for _, facts := range []string{
		`{}`,
		`{"Name":"web","Namespace":"demo","Source":"annotation mode=nat","Config":{"Mode":"nat","ProxyPort":5000,"ProxyUID":7089},"Programmed":true,"Table":true}`,
		`{"Invalid":"\u001b[2J\n","Source":"\u202e","Stack":"gVisor","Addrs":["192.0.2.1"]}`,
		`{"Source":"x","Config":{"Mode":"tproxy"},"Others":[{"Table":"\u001b","Chain":"\n","Rule":"\u009b"}],"Drift":["\u0007"],"Unknown":["\u001b"],"Missing":["\r"]}`,
		`{"Source":"x","Config":{"Mode":"nat","ProxyUID":7089},"Programmed":true,"Table":true,"Listeners":[{"Addr":"0.0.0.0:80","Process":"\u001b[2J","UID":1,"PID":7}],"Ready":{"Text":"\u001b"},"NoStory":"\n\u001b"}`,
		`{"Source":"x","Config":{"Mode":"nat"},"Table":true,"Programmed":true,"Sidecar":{"Name":"\u001b","Image":"\n"},"Port":80,"Client":"2001:db8::1","Replaced":[{"From":"192.0.2.1:1","To":"192.0.2.2:80","As":"192.0.2.3:1","Pod":"192.0.2.2:80"}]}`,
	} {
		f.Add([]byte(facts))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var facts Facts
		if json.Unmarshal(raw, &facts) != nil {
			return
		}
		verdict, _ := Judge(facts)
		if verdict.Code == "" || verdict.Text == "" {
			t.Errorf("no verdict: %+v", verdict)
		}
		var text, asJSON bytes.Buffer
		if err := Print(&text, func(string) string { return "" }, facts); err != nil {
			t.Fatal(err)
		}
		if err := New(facts).JSON(&asJSON); err != nil || !json.Valid(asJSON.Bytes()) {
			t.Errorf("JSON: %v: %s", err, asJSON.Bytes())
		}
		if i := strings.IndexFunc(text.String(), func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf)) }); i >= 0 {
			t.Errorf("%q in\n%q", text.String()[i:min(i+20, text.Len())], text.String())
		}
	})
}
