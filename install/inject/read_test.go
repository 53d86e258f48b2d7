package inject

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// scalars are spellings of booleans, numbers and texts, as YAML 1.1, YAML 1.2 and Go
// have them.
var scalars = []string{
	"true", "True", "TRUE", "tRUE", "yes", "Yes", "YES", "yEs", "on", "On", "ON", "oN", "y", "Y", "t", "T", "1",
	"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N", "f", "0", "~", "null", "Null", "NULL", "nULL", "", "{}", "[]",
	"'true'", `"yes"`, "!!bool true", "!!bool yes", "!!bool 'true'", `!!bool "on"`, "!!str true", "! true", "!!str yes", "&a true", "|\n    true", ">-\n    yes",
	"5000", "+5000", "-5000", "05000", "011610", "0x1388", "0X1388", "0o11610", "0O11610", "0b1001110001000", "0B1001110001000", "5_000", "5__000", "_5000", "5000_",
	"5e3", "5E3", "5.0e+3", "50e2", "5000.0", "5000.", "5000.5", ".5e4", "1:23:20", "83:20", "'5000'", `"5000"`, "!!int 5000", "!!int '5000'", "!!float 5000", "!!str 5000",
	"0x_1388", "-0x1388", "+0x1388", "5,000", "5000 # port", ".inf", ".nan", "2026-11-29", "9223372036854775808", "1e400", "0x1F", "017", "7089", "7_089", "0x1bb1", "015661", "7.089e3",
}

// TestScalars: inject takes a spelling for what kubectl's library makes of it in a pod's
// fields, a boolean, a port and a user.
func TestScalars(t *testing.T) {
	for _, s := range scalars {
		checkScalar(t, s)
	}
}

func FuzzScalars(f *testing.F) {
	for _, s := range scalars {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.Contains(s, "---") {
			checkScalar(t, s)
		}
	})
}

func checkScalar(t *testing.T, s string) {
	t.Helper()
	type spec struct {
		HostNetwork     bool
		SecurityContext struct{ RunAsUser *int64 }
		Containers      []struct {
			Ports []struct{ ContainerPort int32 }
		}
	}
	for _, c := range []struct {
		in   string
		want func(spec) bool // inject must refuse it
		says string
	}{
		{pod + "  hostNetwork: " + s + "\n", func(s spec) bool { return s.HostNetwork }, "hostNetwork: the pod has no network"},
		{pod + "  securityContext:\n    runAsUser: " + s + "\n", func(s spec) bool {
			return s.SecurityContext.RunAsUser != nil && *s.SecurityContext.RunAsUser == 7089
		}, "runs as 7089"},
		{pod + "    ports:\n    - containerPort: " + s + "\n", func(s spec) bool {
			return len(s.Containers) > 0 && len(s.Containers[0].Ports) > 0 && s.Containers[0].Ports[0].ContainerPort == 5000
		}, "has port 5000"},
	} {
		var kubernetes struct {
			Kind string
			Spec spec
		}
		if err := yaml.Unmarshal([]byte(c.in), &kubernetes); err != nil || kubernetes.Kind != "Pod" {
			continue // the API server does not get it, or refuses it
		}
		var out bytes.Buffer
		err := Inject(strings.NewReader(c.in), &out, Options{})
		if refused := err != nil && strings.Contains(err.Error(), c.says); refused != c.want(kubernetes.Spec) {
			t.Errorf("%q: Kubernetes reads %+v, inject says %v\n%s", s, kubernetes.Spec, err, c.in)
		}
	}
}

// TestSpellings that matter most, without the library as the judge.
func TestSpellings(t *testing.T) {
	for s, want := range map[string]bool{"True": true, "yes": true, "on": true, "Y": true, "!!bool yes": true, "'true'": false, "Off": false, "n": false, "tRue": false} {
		err := Inject(strings.NewReader(pod+"  hostNetwork: "+s+"\n"), &bytes.Buffer{}, Options{})
		if refused := err != nil && strings.Contains(err.Error(), "hostNetwork"); refused != want {
			t.Errorf("hostNetwork: %s: %v", s, err)
		}
	}
	for s, want := range map[string]bool{"0x1388": true, "0o11610": true, "011610": true, "5_000": true, "5e3": true, "+5000": true, "'5000'": false, "05000": false} {
		err := Inject(strings.NewReader(pod+"    ports: [{containerPort: "+s+"}]\n"), &bytes.Buffer{}, Options{})
		if refused := err != nil && strings.Contains(err.Error(), "has port 5000"); refused != want {
			t.Errorf("containerPort: %s: %v", s, err)
		}
	}
	for in, want := range map[string]string{
		"  hostNetwork: false\n  hostNetwork: yes\n":                                                       "hostNetwork: the pod has no network",
		"  hostNetwork: false\n  hostNetwork: no\n":                                                        "line 9: the key hostNetwork is there twice",
		"  <<: {hostNetwork: on}\n":                                                                        "hostNetwork: the pod has no network",
		"  x: &x {hostNetwork: on}\n  <<: [{hostNetwork: no}, *x]\n  dnsPolicy: Default\n":                 "",
		"  hostNetwork: &h True\n  hostPID: *h\n":                                                          "hostNetwork: the pod has no network",
		"  overhead: &h {a: True}\n  <<: *h\n  dnsPolicy: Default\n  hostAliases: []\n":                    "",
		"  initContainers: &i [{name: i}]\n  x: *i\n":                                                      "cannot be changed in place",
		"  x: &u 7089\n  securityContext: {runAsUser: *u}\n":                                               "runs as 7089",
		"metadata: {annotations: {tproxy-cni.io/include-inbound-ports: 80}}\n":                             "tproxy-cni.io/include-inbound-ports is the number 80 for Kubernetes, which wants a string: put it in quotes",
		"metadata: {labels: {tproxy-cni.io/inject: on}}\n":                                                 "label: tproxy-cni.io/inject is the boolean true for Kubernetes",
		"metadata: {annotations: {tproxy-cni.io/mode: }}\n":                                                "tproxy-cni.io/mode is null for Kubernetes",
		"metadata: {labels: {tproxy-cni.io/inject: ''}}\n":                                                 `label tproxy-cni.io/inject "": want nat or tproxy`,
		"metadata: {annotations: {tproxy-cni.io/proxy-port: \"0x1388\"}}\n":                                `annotation tproxy-cni.io/proxy-port "0x1388"`,
		"metadata: {annotations: {other: on, 80: yes, tproxy-cni.io/exclude-inbound-ports: \"22, 80\"}}\n": "",
	} {
		text := pod + in
		if strings.HasPrefix(in, "metadata") {
			text = strings.Replace(pod, "metadata:\n  name: web\n", in, 1)
		}
		err := Inject(strings.NewReader(text), &bytes.Buffer{}, Options{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q\n%s", err, want, text)
		}
	}
}

// TestByteOrderMarks: a document that begins with one is read as any other; where
// Kubernetes would read something else, inject refuses it. None gets lost.
func TestByteOrderMarks(t *testing.T) {
	in16 := func(order string, text string) string {
		var out []byte
		for _, u := range utf16.Encode([]rune(bom + text)) {
			high, low := byte(u>>8), byte(u)
			if order == "little" {
				high, low = low, high
			}
			out = append(out, high, low)
		}
		return string(out)
	}
	const second = "kind: ConfigMap\n---\n"
	want := inject(t, second+pod, Options{})
	for name, in := range map[string]string{
		"second document":       second + bom + pod,
		"before the separator":  "kind: ConfigMap\n" + bom + "---\n" + pod,
		"both":                  "kind: ConfigMap\n" + bom + "---\n" + bom + pod,
		"UTF-16, little-endian": in16("little", second+pod),
		"UTF-16, big-endian":    in16("big", second+pod),
	} {
		if diff := cmp.Diff(want, inject(t, in, Options{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := inject(t, bom+second+pod, Options{}); got != bom+want {
		t.Errorf("at the beginning:\n%s", got)
	}
	if got := inject(t, second+"# about it\n"+bom+pod, Options{}); strings.Count(got, "name: "+Container) != 1 || strings.Contains(got, bom) {
		t.Errorf("after a comment:\n%s", got)
	}
	for name, tt := range map[string]struct{ in, want string }{
		"in the middle": {pod + bom + "x: y\n", "document 1 (line 1): line 8: a byte order mark (U+FEFF) in the middle of a document"},
		"of a later":    {second + "a: b\n" + bom + pod, "document 2 (line 2): line 4: a byte order mark"},
		"UTF-32":        {"\x00\x00\xfe\xff\x00\x00\x00a", "UTF-32"},
		"UTF-32, other": {"\xff\xfe\x00\x00a\x00\x00\x00", "UTF-32"},
		"odd UTF-16":    {in16("big", pod) + "a", "half a character"},
		"Latin-1":       {"a: \xe4\n", "not UTF-8"},
		"no mark":       {in16("big", pod)[2:], "document 1 (line 1): yaml: control characters are not allowed"},
		"a directive":   {"%YAML 1.1\n---\n" + pod, "Kubernetes reads no %YAML directive"},
		"another":       {second + pod + "...\n%YAML 1.2\n---\n" + pod, "found incompatible YAML document"},
	} {
		var out bytes.Buffer
		if err := Inject(strings.NewReader(tt.in), &out, Options{}); err == nil || !strings.Contains(err.Error(), tt.want) || out.Len() > 0 {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestFiles: files, directories and standard input become one stream in their order;
// faults name the file.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := write("a.yaml", "kind: A")
	write("d/1.yml", "---\nkind: D1\n")
	write("d/2.json", `{"kind": "D2"}`)
	write("d/3.txt", "no: manifest")
	write("d/e/4.yaml", "kind: D4\n")
	z := write("z.yaml", bom+"kind: Z\n")
	j := write("j.json", `{"kind": "J"}`)
	for _, tt := range []struct {
		paths     []string
		recursive bool
		want      string
	}{
		{[]string{a}, false, "kind: A"},
		{[]string{z}, false, bom + "kind: Z\n"},
		{[]string{z, a}, false, "kind: Z\n---\nkind: A"},
		{[]string{a, "-", z}, false, "kind: A\n---\nkind: stdin\n---\nkind: Z\n"},
		{[]string{filepath.Join(dir, "d")}, false, "---\nkind: D1\n---\n{\"kind\": \"D2\"}"},
		{[]string{filepath.Join(dir, "d"), a}, true, "---\nkind: D1\n---\n{\"kind\": \"D2\"}\n---\nkind: D4\n---\nkind: A"},
		{[]string{j, j}, false, "{\"kind\": \"J\"}\n{\"kind\": \"J\"}"},
		{[]string{j, a}, false, "---\n{\"kind\": \"J\"}\n---\nkind: A"},
	} {
		files, err := ReadFiles(tt.paths, tt.recursive, strings.NewReader("kind: stdin\n"))
		var out bytes.Buffer
		if err == nil {
			err = InjectFiles(files, &out, Options{})
		}
		if diff := cmp.Diff(tt.want, out.String()); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", tt.paths, err, diff)
		}
	}
	empty := filepath.Join(dir, "none")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFiles([]string{"-", "-", filepath.Join(dir, "missing"), empty}, false, strings.NewReader("")); err == nil || strings.Count(err.Error(), "\n") != 2 ||
		!strings.Contains(err.Error(), "missing: no such file") || !strings.Contains(err.Error(), "only once") || !strings.Contains(err.Error(), "no file with the extension") {
		t.Errorf("faults: %v", err)
	}
	files, err := ReadFiles([]string{a, write("bad.yaml", "kind: X\n---\na: [\n"), write("host.yaml", pod+"  hostNetwork: yes\n")}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = InjectFiles(files, &bytes.Buffer{}, Options{})
	for _, want := range []string{"bad.yaml: document 2 (line 2): yaml: line 3", "host.yaml: document 1 (line 1): Pod web: hostNetwork"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestNotes: what a person should know of is on stderr, and nothing else is.
func TestNotes(t *testing.T) {
	once := inject(t, pod, Options{})
	old := strings.NewReplacer("image: tproxy-cni:latest", "image: tproxy-cni:v0.1.0", "512Mi", "256Mi").Replace(once)
	for name, tt := range map[string]struct {
		in   string
		o    Options
		want string
	}{
		"no pods":   {"kind: Service\napiVersion: v1\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n", Options{}, "pods: none\n"},
		"a pod":     {pod, Options{}, "pods: 1 with the sidecar now\n"},
		"again":     {once, Options{}, "pods: 1 had it\n"},
		"opted out": {strings.Replace(pod, "  name: web\n", "  annotations: {tproxy-cni.io/mode: none}\n", 1), Options{}, "pods: 1 left alone\n"},
		"old": {old, Options{}, "document 1 (line 1): Pod web: the sidecar that it has is brought up to date: image: tproxy-cni:v0.1.0 -> tproxy-cni:latest; resources.limits.memory: 256Mi -> 512Mi\n" +
			"pods: 1 brought up to date\n"},
		"Rollout": {
			"apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: web, namespace: demo}\nspec: {template: {spec: {containers: [{name: a}]}}}\n",
			Options{},
			"document 1 (line 1): Rollout demo/web: argoproj.io/v1alpha1 is no kind that is known here: it is left as it is, and if it makes pods, they are left as they are\n" +
				"pods: none; kinds that are not known, as they were: Rollout\n",
		},
		"Knative": {
			"apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{image: a}]}}}\n",
			Options{},
			"document 1 (line 1): Service web: serving.knative.dev/v1 is no kind that is known here: it is left as it is, and if it makes pods, they are left as they are\n" +
				"pods: none; kinds that are not known, as they were: Service\n",
		},
		"a retired version": {
			"apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{image: a}]}}}\n",
			Options{},
			"document 1 (line 1): Deployment web: extensions/v1beta1 is no kind that is known here: it is left as it is, and if it makes pods, they are left as they are\n" +
				"pods: none; kinds that are not known, as they were: Deployment\n",
		},
		"below k8s.io":       {"apiVersion: sparkoperator.k8s.io/v1beta2\nkind: SparkApplication\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\n", Options{}, "pods: none; kinds that are not known, as they were: SparkApplication\n"},
		"without a template": {"apiVersion: a.example/v1\nkind: Foo\n---\napiVersion: b.example/v1\nkind: Bar\n---\napiVersion: a.example/v1\nkind: Foo\n", Options{}, "pods: none; kinds that are not known, as they were: Foo, Bar\n"},
		"its own":            {pod + "  - name: tproxy-proxy\n", Options{}, "document 1 (line 1): Pod web: it has a container tproxy-proxy that inject did not write: it is left as it is\npods: 1 left alone\n"},
		"its own init": {
			pod + "  initContainers: [{name: tproxy-proxy}]\n",
			Options{},
			"document 1 (line 1): Pod web: it has an init container tproxy-proxy that inject did not write: it is left as it is\npods: 1 left alone\n",
		},
		"ours, then another": {
			once,
			Options{Sidecar: haproxy(t)},
			"document 1 (line 1): Pod web: it has the sidecar tproxy-proxy: take that out first (tproxy-install uninject)\npods: 1 left alone\n",
		},
	} {
		var notes bytes.Buffer
		tt.o.Notes = &notes
		inject(t, tt.in, tt.o)
		if diff := cmp.Diff(tt.want, notes.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, tt := range map[string]struct{ in, want string }{
		"taken out":   {once, "pods: 1 without the sidecar now\n"},
		"had none":    {pod, "pods: 1 had none\n"},
		"another's":   {inject(t, pod, Options{Sidecar: haproxy(t)}), "document 1 (line 1): Pod web: it has the annotation tproxy-cni.io/mode: nat and no sidecar tproxy-proxy: if it is another proxy's, give its file: --sidecar\npods: 1 had none\n"},
		"still asked": {inject(t, strings.Replace(pod, "  name: web\n", "  name: web\n  labels: {tproxy-cni.io/inject: nat}\n", 1), Options{}), "document 1 (line 1): Pod web: it still has the label tproxy-cni.io/inject, with which the admission policy adds the sidecar or refuses the pod\npods: 1 without the sidecar now\n"},
	} {
		var notes bytes.Buffer
		uninject(t, tt.in, Options{Notes: &notes})
		if diff := cmp.Diff(tt.want, notes.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestUpToDate: a sidecar that was injected once gets what inject writes today, in its
// place; what was added to it, and all around it, stays.
func TestUpToDate(t *testing.T) {
	in := inject(t, strings.Replace(pod, "  name: web\n", "  name: web\n  labels: {tproxy-cni.io/inject: nat}\n", 1)+"  initContainers:\n  # the first\n  - name: first\n", Options{Image: "v0.1.0"})
	for name, tt := range map[string]struct {
		change []string // to what inject wrote
		o      Options
		want   []string // in the place of change; nil: as inject wrote it
	}{
		"image":       {[]string{"tproxy-cni:v0.1.0", "tproxy-cni:v0.0.9"}, Options{Image: "v0.1.0"}, nil},
		"mode":        {[]string{"--mode=nat", "--mode=tproxy"}, Options{Image: "v0.1.0"}, nil},
		"annotation":  {[]string{"tproxy-cni.io/mode: nat", "tproxy-cni.io/mode: tproxy"}, Options{Image: "v0.1.0"}, nil},
		"resources":   {[]string{"memory: 512Mi", "memory: 64Mi"}, Options{Image: "v0.1.0"}, nil},
		"a probe":     {[]string{"    readinessProbe:\n      httpGet:\n        path: /readyz\n        port: tproxy-admin\n      periodSeconds: 5\n", ""}, Options{Image: "v0.1.0"}, nil},
		"old flag":    {[]string{"args: [--mode=nat]", "args: [--mode=nat, '--addr=:6000']"}, Options{Image: "v0.1.0"}, nil},
		"their flag":  {[]string{"args: [--mode=nat]", "args: [--mode=nat, --log-level=debug]"}, Options{Image: "v0.2.0"}, []string{"v0.1.0", "v0.2.0"}},
		"their limit": {[]string{"        memory: 512Mi\n", "        memory: 512Mi\n        cpu: 1\n"}, Options{Image: "v0.2.0"}, []string{"v0.1.0", "v0.2.0"}},
	} {
		changed := strings.Replace(in, tt.change[0], tt.change[1], 1)
		if changed == in {
			t.Fatalf("%s: nothing to change in\n%s", name, in)
		}
		want := in
		if tt.want != nil {
			want = strings.ReplaceAll(changed, tt.want[0], tt.want[1])
		}
		got := inject(t, changed, tt.o)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if again := inject(t, got, tt.o); again != got {
			t.Errorf("%s: a second time changes:\n%s", name, cmp.Diff(got, again))
		}
	}
	// What inject does not write at all.
	env := strings.Replace(in, "    restartPolicy: Always", "    env:\n    - name: GODEBUG # theirs\n      value: x\n    restartPolicy: Always", 1)
	got := inject(t, env, Options{})
	if !strings.Contains(got, "name: GODEBUG # theirs\n") || !strings.Contains(got, "image: tproxy-cni:latest\n") || !strings.Contains(got, "  # the first\n  - name: first\n") {
		t.Error(got)
	}
	// From nat to tproxy, which must not drop NET_RAW.
	tproxy := inject(t, strings.Replace(in, "inject: nat", "inject: tproxy", 1), Options{})
	if strings.Contains(tproxy, "capabilities") || !strings.Contains(tproxy, "tproxy-cni.io/mode: tproxy") || strings.Contains(tproxy, "--mode=nat") {
		t.Error(tproxy)
	}
	// JSON stays JSON.
	one, err := os.ReadFile("testdata/pod.out.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Replace(string(one), ":latest", ":v1", 1), inject(t, string(one), Options{Image: "v1"})); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
}
