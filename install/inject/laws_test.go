package inject

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// meaning is what Kubernetes reads of a stream.
func meaning(t *testing.T, text []byte) (all []any) {
	t.Helper()
	decoded, _, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range documents(decoded) {
		text, err := withoutBOM(p)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if json.Valid(text) {
			err = json.Unmarshal(text, &v)
		} else {
			v, err = view(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, normal(v))
	}
	return all
}

func uninject(t *testing.T, in string, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Uninject(strings.NewReader(in), &out, o); err != nil {
		t.Fatalf("%v\n%s", err, in)
	}
	return out.String()
}

// manifests are files with pods, in many kinds, styles and line ends.
func manifests(t testing.TB) map[string]string {
	t.Helper()
	all := map[string]string{
		"pod":             pod,
		"no last newline": strings.TrimSuffix(pod, "\n"),
		"blank lines":     "# first\n\napiVersion: v1\nkind:   Pod   # odd\n\nmetadata:\n\n  name: web\n\nspec:\n\n  # why\n  containers:\n\n  - name: web\n\n\n# last\n",
		"no metadata":     "apiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec: {containers: [{name: a}]} # flow\n",
		"flow":            "{apiVersion: v1, kind: Pod, metadata: {name: \"it's\"}, spec: {containers: [{name: 'a, \"b\" # c'}], volumes: [{name: data, emptyDir: {}}]}}\n",
		"JSON": `{
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "a \ud83d\ude00 \" \/ \\ud83d"
    },
    "spec": {
        "containers": [
            {"name": "a"}
        ],
        "initContainers": [ {"name": "first"} ]
    }
}
`,
		"several JSON": `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a"}]}}
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"},"spec":{"containers":[{"name":"b"}]}} {"kind":"ConfigMap"}
`,
		"tabs in JSON":     "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"spec\": {\"containers\": [{\"name\": \"a\"}]}\n}\n",
		"list":             "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  spec:\n    containers:\n    - name: a\n-   kind: Pod\n    apiVersion: v1\n    metadata:\n        name: b\n    spec:\n        containers:\n        -   name: b\n",
		"anchors":          "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  labels: &l {app: web}\nspec: &spec\n  selector: {matchLabels: *l}\n  template: !!map\n    metadata: &m\n      labels: *l\n    spec: &p\n      containers: &c\n      - &one\n        name: a\n",
		"block text":       "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    note: |\n      # no comment\n\n      - text\nspec:\n  initContainers:\n  - name: first\n    command:\n    - sh\n    - -c\n    - |\n      echo\n\n      - x\n  containers: [{name: a}]\n",
		"%ends":            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: a}\n...\n---\nkind: ConfigMap\n...\n",
		"separators":       "--- # one\n" + pod + "---\n---\n# nothing\n--- \n" + pod,
		"wide indentation": "apiVersion: v1\nkind: Pod\nmetadata:\n      name: a\nspec:\n      initContainers:\n            - name: first\n              image: b\n            # about the second\n            - name: second\n      containers:\n            - name: a\n",
		"dashes alone":     "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  initContainers:\n  - # the first\n    name: first\n  -\n    name: second\n  - &a-b !!map\n    name: third\n  volumes:\n  -\n    name: data\n    emptyDir: {}\n  containers:\n  -\n    name: a\n",
		"a dash per item":  "apiVersion: v1\nkind: List\nitems:\n-\n  apiVersion: v1\n  kind: Pod\n  spec:\n    containers:\n    - name: a-b\n- # another\n  apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  spec:\n    containers:\n    - name: b\n",
		"other letters":    "apiVersion: v1\nkind: Pod\nmetadata: {name: \u00e9\u00e9, labels: {\u4e16: \u754c}}\nspec: {containers: [{name: a}]}\n",
	}
	for name, text := range maps.Clone(all) {
		if !strings.Contains(name, "JSON") {
			all[name+", CRLF"] = strings.ReplaceAll(text, "\n", "\r\n")
		}
	}
	all["byte order mark"] = bom + pod
	names, err := filepath.Glob("../../k8s/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	more, _ := filepath.Glob("../../k8s/proxies/base/*.yaml")
	for _, name := range append(names, more...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte(modeKey)) && !bytes.Contains(text, []byte(Container)) {
			all[name] = string(text)
		}
	}
	return all
}

// TestBack: inject and uninject give back every byte, and what inject writes means to
// Kubernetes what was there, and the sidecar. So it is with other proxies.
func TestBack(t *testing.T) {
	sidecars := map[string]Sidecar{"tproxy-proxy": nil}
	names, err := filepath.Glob("../../k8s/proxies/*/sidecar.yaml")
	if err != nil || len(names) < 5 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if sidecars[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	for which, sidecar := range sidecars {
		o := Options{Sidecar: sidecar}
		for name, in := range manifests(t) {
			if sidecar != nil && strings.Contains(name, "CRLF") {
				continue // what adds the lines is the same
			}
			once := inject(t, in, o)
			if once == in && strings.Contains(in, "containers") {
				t.Errorf("%s, %s: nothing was added", which, name)
			}
			if diff := cmp.Diff(once, inject(t, once, o)); diff != "" {
				t.Errorf("%s, %s: a second time changes (-once +twice):\n%s", which, name, diff)
			}
			if diff := cmp.Diff(in, uninject(t, once, o)); diff != "" {
				t.Errorf("%s, %s (-before +taken back):\n%s\nfrom\n%s", which, name, diff, once)
			}
			if diff := cmp.Diff(in, uninject(t, in, o)); diff != "" {
				t.Errorf("%s, %s: without a sidecar uninject changes:\n%s", which, name, diff)
			}
		}
	}
}

// TestBackOfGolden: where a pod had the annotation itself, or empty mappings, the rest is
// as it was in meaning.
func TestBackOfGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/kinds.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	in := strings.Replace(string(text), "            tproxy-cni.io/mode: nat # the label decides\n", "", 1)
	if diff := cmp.Diff(in, uninject(t, inject(t, in, Options{}), Options{})); diff != "" {
		t.Errorf("-before +taken back:\n%s", diff)
	}
	for _, empty := range []string{"annotations:", "annotations: ~", "annotations: {}", "annotations: null", "annotations: {} # none"} {
		for _, init := range []string{"initContainers:", "initContainers: []", "initContainers: null # none"} {
			in := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  " + empty + "\nspec:\n  " + init + "\n  containers: [{name: a}]\n"
			once := inject(t, in, Options{})
			if got, want := meaning(t, []byte(uninject(t, once, Options{}))), meaning(t, []byte(in)); !cmp.Equal(want, got) {
				t.Errorf("%s %s:\n%s", empty, init, once)
			}
		}
	}
}
