package inject

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

var update = flag.Bool("update", false, "write testdata/*.out.* anew")

func inject(t *testing.T, in string, o Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Inject(strings.NewReader(in), &out, o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.in.*")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		in, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := inject(t, string(in), Options{})
		golden := strings.Replace(name, ".in.", ".out.", 1)
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(got, inject(t, got, Options{Mode: contract.ModeTProxy})); diff != "" {
			t.Errorf("%s: a second time changes (-once +twice):\n%s", name, diff)
		}
	}
}

const pod = `apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
`

func TestOptions(t *testing.T) {
	got := inject(t, pod, Options{Mode: contract.ModeTProxy, Image: "example.org/tproxy-cni:v1"})
	for _, want := range []string{"tproxy-cni.io/mode: tproxy\n", "image: example.org/tproxy-cni:v1\n", "args: [--mode=tproxy]\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if got, want := inject(t, pod, Options{Image: "v1"}), "image: tproxy-cni:v1\n"; !strings.Contains(got, want) {
		t.Errorf("no %q in\n%s", want, got)
	}
	// Pod Security baseline admits NET_RAW only from the runtime's default set.
	if strings.Contains(got, "capabilities") {
		t.Errorf("tproxy mode names capabilities:\n%s", got)
	}
	if want := "capabilities:\n        drop: [ALL]"; !strings.Contains(inject(t, pod, Options{}), want) {
		t.Errorf("nat mode does not drop all capabilities")
	}
}

func TestUnchanged(t *testing.T) {
	for name, in := range map[string]string{
		"empty":            "",
		"comments":         "# nothing\n---\n# here\n",
		"no final newline": "kind:   ConfigMap\napiVersion: v1",
		"carriage returns": "kind: ConfigMap\r\n---\r\nkind: Secret\r\n",
		"no Kubernetes":    "- a\n-   b\n---\njust text\n",
		"text in a block":  "kind: ConfigMap\ndata:\n  a: |\n    --- not a separator\n    kind: Pod\n",
		"end marks":        "kind:   ConfigMap\n...\n---\nkind:   Secret\n...\n",
		"opted out":        strings.Replace(pod, "  name: web\nspec", "  annotations:   {tproxy-cni.io/mode: none}\nspec", 1),
		"has it":           pod + "  - name:   tproxy-proxy\n",
	} {
		if diff := cmp.Diff(in, inject(t, in, Options{})); diff != "" {
			t.Errorf("%s changed (-in +out):\n%s", name, diff)
		}
	}
}

// TestShared has two workloads with one pod template, by an anchor.
func TestShared(t *testing.T) {
	in := `apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  spec:
    template: &pod
      spec:
        containers:
        - name: a
- apiVersion: apps/v1
  kind: StatefulSet
  spec:
    template: *pod
`
	got := inject(t, in, Options{})
	if n := strings.Count(got, "name: tproxy-proxy"); n != 1 || !strings.Contains(got, "template: *pod") {
		t.Errorf("%d sidecars in\n%s", n, got)
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"not YAML":     {"a: [", "document 1 (line 1): yaml"},
		"which":        {"a: 1\n---\na: [", "document 2 (line 2): yaml: line 3"},
		"host network": {pod + "  hostNetwork: true\n", "Pod web: hostNetwork"},
		"same user":    {pod + "    securityContext: {runAsUser: 7089}\n", "container web runs as 7089"},
		"pod's user":   {pod + "  securityContext: {runAsUser: 7089}\n", "container web runs as 7089"},
		"same port":    {pod + "    ports: [{containerPort: 5000}]\n", "container web has port 5000"},
		"TCP port":     {pod + "    ports: [{containerPort: 5001, protocol: TCP}]\n", "container web has port 5001"},
		"label":        {strings.Replace(pod, "  name: web\nspec", "  labels: {tproxy-cni.io/inject: 'yes'}\nspec", 1), `label tproxy-cni.io/inject "yes"`},
		"annotation":   {strings.Replace(pod, "  name: web\nspec", "  annotations: {tproxy-cni.io/proxy-port: '0'}\nspec", 1), `annotation tproxy-cni.io/proxy-port "0"`},
		"merge key":    {strings.Replace(pod, "  name: web\nspec", "  <<: {annotations: {a: b}}\nspec", 1), "merge key"},
		"same ports":   {strings.Replace(pod, "  name: web\nspec", "  annotations: {tproxy-cni.io/proxy-port: '5001'}\nspec", 1), "this is the admin port by default"},
		"unknown":      {strings.Replace(pod, "  name: web\nspec", "  annotations: {tproxy-cni.io/proxy-prot: '6000'}\nspec", 1), `annotation tproxy-cni.io/proxy-prot "6000": unknown`},
		"uid":          {strings.Replace(pod, "  name: web\nspec", "  annotations: {tproxy-cni.io/proxy-uid: '4000000000'}\nspec", 1), "runAsUser"},
		"dots":         {"kind: ConfigMap\n...\n" + pod, `document 1 (line 1): the document after "..." must begin with "---"`},
		"typed list":   {"apiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: web}, spec: {hostNetwork: true, containers: [{name: a}]}}\n", "Pod web: hostNetwork"},
		"Windows":      {pod + "  os: {name: windows}\n", "a Windows pod"},
		"Windows node": {pod + "  nodeSelector: {kubernetes.io/os: windows}\n", "a Windows pod"},
		"Windows, old": {pod + "  nodeSelector: {beta.kubernetes.io/os: windows}\n", "a Windows pod"},
		"shared spec": {
			"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: &s {containers: [{name: a}]}}\n" +
				"- {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: *s}\n", "Pod b: spec is an alias",
		},
		"shared init containers": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nx: &i [{name: i}]\nspec: {containers: [{name: a}], initContainers: *i}\n",
			"Pod a: initContainers is an alias",
		},
		"shared annotations": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {a: b}, annotations: *l}\nspec: {containers: [{name: a}]}\n",
			"Pod a: annotations is an alias",
		},
		"a text":      {strings.Replace(pod, "metadata:\n  name: web\n", "metadata: web\n", 1), "line 3: metadata has a text for a value"},
		"a list text": {pod + "  initContainers: none\n", "line 8: initContainers has a text for a value"},
		"no pod":      {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {}\n", "Deployment web: no containers"},
	} {
		var out bytes.Buffer
		err := Inject(strings.NewReader(c.in), &out, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if out.Len() > 0 {
			t.Errorf("%s: something was written", name)
		}
	}
	if err := Inject(strings.NewReader(pod), &bytes.Buffer{}, Options{Mode: "none"}); err == nil {
		t.Error("a default mode that is none was accepted")
	}
	for _, protocol := range []string{"UDP", "SCTP"} { // whose ports are others
		inject(t, pod+"    ports: [{containerPort: 5000, protocol: "+protocol+"}]\n", Options{})
	}
}

// FuzzInject looks for input that gets lost, or that a second run changes.
func FuzzInject(f *testing.F) {
	names, err := filepath.Glob("testdata/*.in.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		in, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(in)
	}
	for _, text := range manifests(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var all []byte
		for _, p := range documents(in) {
			all = append(all, p.text...)
		}
		if !bytes.Equal(in, all) {
			t.Fatalf("documents lose something:\n%s", cmp.Diff(in, all))
		}
		var once, twice bytes.Buffer
		if Inject(bytes.NewReader(in), &once, Options{}) != nil {
			return
		}
		if err := Inject(bytes.NewReader(once.Bytes()), &twice, Options{}); err != nil {
			t.Fatalf("its own output is refused: %v\n%s", err, once.Bytes())
		}
		if diff := cmp.Diff(once.String(), twice.String()); diff != "" {
			t.Fatalf("a second time changes (-once +twice):\n%s", diff)
		}
		if once.String() == string(in) || bytes.Contains(in, []byte(contract.AnnotationPrefix)) {
			return
		}
		var back bytes.Buffer
		if err := Uninject(bytes.NewReader(once.Bytes()), &back, Options{}); err != nil {
			t.Fatalf("its own output cannot be taken back: %v\n%s", err, once.Bytes())
		}
		if want, got := meaning(t, in), meaning(t, back.Bytes()); !cmp.Equal(want, got) {
			t.Fatalf("taken back it means something else:\n%s", cmp.Diff(want, got))
		}
	})
}

// TestAliasedItems: an alias as an item may be the List itself, or one of a
// few levels that together are millions.
func TestAliasedItems(t *testing.T) {
	bomb := "&l0 {apiVersion: v1, kind: List, items: []}"
	for i := 1; i < 12; i++ {
		items := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 12), ", ")
		bomb += fmt.Sprintf("\n- &l%d {apiVersion: v1, kind: List, items: [%s]}", i, items)
	}
	for name, in := range map[string]string{
		"itself":       "&a {apiVersion: v1, kind: List, items: [*a]}",
		"below itself": "&a {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [*a]}]}",
		"millions":     "apiVersion: v1\nkind: List\nitems:\n- " + bomb,
		"all items":    "x: &x []\napiVersion: v1\nkind: List\nitems: *x",
	} {
		var out bytes.Buffer
		err := Inject(strings.NewReader(in), &out, Options{})
		if err == nil || !strings.Contains(err.Error(), "alias") && !strings.Contains(err.Error(), "contains itself") || out.Len() > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
