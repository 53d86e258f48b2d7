package inject

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// jsonSpellings are texts as JSON may write them: with escapes that YAML does not have,
// and characters that YAML reads as others, or not at all.
var jsonSpellings = []string{
	`http:\/\/a`, `\/etc\/x`, `\ud83d\ude00`, `\ud83d`, `\u0041\u00e9`, `\"quoted\"`, `\\\/`, `a\\`, `a\tb\r\n\b\f`, `\u0000`,
	"\u0085", "\u2028", "\u2029", "\u007f", "\u009f", "\ufffe", "\U0001f600", "世界", "a # b", "{[,:]}", "'", "<<", "",
}

// TestJSONTexts: what inject writes into JSON has the texts that were there, in values
// and keys, and takes nothing else out.
func TestJSONTexts(t *testing.T) {
	for _, s := range jsonSpellings {
		var value string
		if err := json.Unmarshal([]byte(`"`+s+`"`), &value); err != nil {
			t.Fatal(err)
		}
		in := `{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"` + s + `k":"` + s + `"}, "name":"a"},` + "\t" + `"spec":{"containers":[{"name":"a"}]}}` + "\n"
		once := inject(t, in, Options{})
		if diff := cmp.Diff(in, uninject(t, once, Options{})); diff != "" {
			t.Errorf("%q (-before +taken back):\n%s", s, diff)
		}
		// Somebody adds to the sidecar, and it is brought up to date.
		added := strings.Replace(once, `"name":"tproxy-proxy"`, `"name":"tproxy-proxy","env":[{"name":"A`+s+`","value":"`+s+`"}],"labels":{"`+s+`k":"`+s+`"}`, 1)
		updated := inject(t, added, Options{Image: "v2"})
		if got, want := meaning(t, []byte(updated)), meaning(t, []byte(strings.Replace(added, "tproxy-cni:latest", "tproxy-cni:v2", 1))); !cmp.Equal(want, got) {
			t.Errorf("%q (-want +got):\n%s", s, cmp.Diff(want, got))
		}
		sidecar := at(meaning(t, []byte(updated))[0], "spec", "initContainers").([]any)[0]
		if env := items(at(sidecar, "env")); len(env) != 1 || env[0]["value"] != value || str(sidecar, "labels", value+"k") != value {
			t.Errorf("%q: %q, %q", s, env, at(sidecar, "labels"))
		}
	}
	// A key is the same however it is written.
	plain := inject(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}`, Options{})
	escaped := strings.ReplaceAll(plain, "tproxy-cni.io/mode", `tproxy-cni.io\/mod\u0065`)
	if got, want := uninject(t, escaped, Options{}), uninject(t, plain, Options{}); got != want || escaped == plain {
		t.Error(got)
	}
	twice := strings.Replace(plain, `"initContainers"`, `"hostPID":true,"host\u0050ID":false,"initContainers"`, 1)
	if err := Uninject(strings.NewReader(twice), &bytes.Buffer{}, Options{}); err == nil || !strings.Contains(err.Error(), "the key hostPID is there twice") {
		t.Error(err)
	}
}

// TestNullInFlow: null, as programs write it for a list that is empty, becomes what is
// added, in JSON and in flow style.
func TestNullInFlow(t *testing.T) {
	o := Options{Sidecar: haproxy(t)}
	for _, metadata := range []string{`null`, `{"name": "web", "annotations": null}`, `{"annotations": null, "name": "web"}`} {
		for _, lists := range []string{`, "initContainers": null`, `, "volumes":null`, `, "initContainers": null , "volumes": null`, ``} {
			in := `{"apiVersion": "v1", "kind": "Pod", "metadata": ` + metadata + `, "spec": {"containers": [{"name": "a"}]` + lists + "}}\n"
			for _, in := range []string{in, strings.ReplaceAll(in, "\n", " # flow\n"), strings.ReplaceAll(in, "null", "~"), "# block\napiVersion: v1\nkind: List\nitems:\n- " + in} {
				for _, o := range []Options{{}, o} {
					got := inject(t, in, o)
					if again := inject(t, got, o); again != got {
						t.Errorf("a second time changes:\n%s", cmp.Diff(got, again))
					}
					if diff := cmp.Diff(meaning(t, []byte(in)), meaning(t, []byte(uninject(t, got, o)))); diff != "" {
						t.Errorf("taken back it means something else:\n%s%s", in, diff)
					}
				}
			}
		}
	}
	const want = `"metadata": {"name": "web", "annotations": {"tproxy-cni.io/mode":"nat"}}, "spec": {"containers": [{"name": "a"}], "initContainers": [{"args"`
	got := inject(t, `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "annotations": null}, "spec": {"containers": [{"name": "a"}], "initContainers": null}}`, Options{})
	if !json.Valid([]byte(got)) || !strings.Contains(got, want) {
		t.Errorf("want %s in\n%s", want, got)
	}
}
