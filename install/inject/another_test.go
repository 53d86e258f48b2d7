package inject

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func haproxy(t *testing.T) Sidecar {
	t.Helper()
	return fromFile(t, "proxies/haproxy-http")
}

// fromFile is the sidecar of a directory of k8s.
func fromFile(t *testing.T, dir string) Sidecar {
	t.Helper()
	text, err := os.ReadFile("../../k8s/" + dir + "/sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestAnother: another proxy's containers come first, in their order, with the pod's
// settings; its volumes come last; a second time changes nothing.
func TestAnother(t *testing.T) {
	o := Options{Sidecar: haproxy(t), Image: "example.org/tproxy-cni:v1"}
	const in = `apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:
    tproxy-cni.io/proxy-uid: "7777"
spec:
  initContainers:
  - name: first
  containers:
  - name: web
  volumes:
  - name: data
    emptyDir: {}
`
	got := inject(t, in, o)
	at := 0
	for _, want := range []string{
		"tproxy-cni.io/mode: nat\n", "name: prepared ", "image: example.org/tproxy-cni:v1\n", "command: [/tproxy-proxy, check, --mode=nat]\n",
		"runAsUser: 7777", "name: proxy\n", "image: docker.io/library/haproxy:", "runAsUser: 7777", "mountPath: /srv/tls\n",
		"name: first\n", "containers:\n", "volumes:\n", "name: data\n", "name: proxy\n", "secretName: proxy-tls",
	} {
		i := strings.Index(got[at:], want)
		if i < 0 {
			t.Fatalf("no %q after line %d of\n%s", want, strings.Count(got[:at], "\n"), got)
		}
		at += i + len(want)
	}
	if strings.Contains(got, "7089") {
		t.Errorf("the pod's proxy-uid is not everywhere:\n%s", got)
	}
	if again := inject(t, got, o); again != got {
		t.Errorf("a second time changes:\n%s", again)
	}
	if again := inject(t, got, Options{Sidecar: o.Sidecar, Image: "other"}); again != strings.ReplaceAll(got, "example.org/tproxy-cni:v1", "tproxy-cni:other") {
		t.Errorf("another image changes more than that:\n%s", again)
	}
}

// TestAnotherFaults: what is wrong with the file, or does not fit the pod, is said.
func TestAnotherFaults(t *testing.T) {
	good := string(haproxy(t))
	for want, d := range map[string]string{
		"is empty":                                "# nothing\n",
		"more than one document":                  good + "---\n" + good,
		"is of kind ConfigMap":                    "kind: ConfigMap\napiVersion: v1\n",
		"no spec.initContainers":                  pod,
		"has no name or no image":                 strings.Replace(good, "image: docker.io", "images: docker.io", 1),
		"needs restartPolicy: Always":             strings.Replace(good, "restartPolicy: Always", "restartPolicy: OnFailure", 1),
		"the sidecar's file: yaml":                "a: [",
		"volume tls is one of the sidecar's, too": good,
	} {
		var out bytes.Buffer
		err := Inject(strings.NewReader(pod+"  volumes: [{name: tls, emptyDir: {}}]\n"), &out, Options{Sidecar: Sidecar(d)})
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestAnothersNames: a user's own container and volume of the names in the sidecar's file
// are not taken for it.
func TestAnothersNames(t *testing.T) {
	const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, annotations: {tproxy-cni.io/mode: nat}}\nspec:\n"
	const volumes = "  volumes:\n  - {name: tls, persistentVolumeClaim: {claimName: data}}\n"
	const web = "  containers:\n  - name: web\n    volumeMounts: [{name: tls, mountPath: /data}]\n"
	for name, in := range map[string]string{
		"no user":       head + "  initContainers:\n  - {name: proxy, image: cloud-sql-proxy, restartPolicy: Always}\n" + web + volumes,
		"another user":  head + "  initContainers:\n  - {name: proxy, image: cloud-sql-proxy, restartPolicy: Always, securityContext: {runAsUser: 1000}}\n" + web + volumes,
		"another's":     head + "  securityContext: {runAsUser: 7089}\n  initContainers:\n  - {name: proxy, image: cloud-sql-proxy, restartPolicy: Always, securityContext: {runAsUser: 1000}}\n" + web + volumes,
		"the pod's uid": strings.Replace(head, "mode: nat", "mode: nat, tproxy-cni.io/proxy-uid: '1000'", 1) + "  initContainers:\n  - {name: proxy, image: cloud-sql-proxy, restartPolicy: Always, securityContext: {runAsUser: 7089}}\n" + web + volumes,
		"not native":    head + "  initContainers:\n  - {name: proxy, image: cloud-sql-proxy, securityContext: {runAsUser: 7089}}\n" + web + volumes,
	} {
		var notes bytes.Buffer
		o := Options{Sidecar: haproxy(t), Notes: &notes}
		if got := uninject(t, in, o); got != in {
			t.Errorf("%s: uninject makes of it\n%s", name, got)
		}
		if got := inject(t, in, o); got != in || !strings.Contains(notes.String(), "it has an init container proxy that inject did not write") {
			t.Errorf("%s: inject makes of it\n%s\nand says\n%s", name, got, notes.String())
		}
	}
	// A volume of the sidecar that the application mounts stays, and is not changed.
	o := Options{Sidecar: haproxy(t)}
	once := inject(t, pod, o)
	mounted := strings.Replace(once, "  - name: web\n", "  - name: web\n    volumeMounts: [{name: tmp, mountPath: /tmp}]\n", 1)
	want := strings.NewReplacer(
		"  - name: web\n", "  - name: web\n    volumeMounts: [{name: tmp, mountPath: /tmp}]\n",
		"spec:\n", "spec:\n  volumes:\n  - name: tmp\n    emptyDir: {}\n",
	).Replace(pod)
	if diff := cmp.Diff(want, uninject(t, mounted, o)); diff != "" {
		t.Errorf("a volume that is in use (-want +got):\n%s", diff)
	}
	var notes bytes.Buffer
	o.Notes = &notes
	uninject(t, mounted, o)
	if !strings.Contains(notes.String(), "volume tmp stays: container web mounts it") {
		t.Error(notes.String())
	}
	claimed := strings.Replace(mounted, "emptyDir: {}", "persistentVolumeClaim: {claimName: data}", 1)
	if err := Inject(strings.NewReader(claimed), &bytes.Buffer{}, o); err == nil || !strings.Contains(err.Error(), "volume tmp is not as the sidecar's file has it, and container web mounts it") {
		t.Error(err)
	}
	// What changes in a volume that nobody else mounts is said.
	notes.Reset()
	if got := inject(t, strings.Replace(once, "emptyDir: {}", "emptyDir: {medium: Memory}", 1), o); got != once || !strings.Contains(notes.String(), "brought up to date: volume tmp.emptyDir.medium: Memory -> none") {
		t.Errorf("%s\n%s", notes.String(), got)
	}
}

// TestAnotherIncomplete: a sidecar that lacks one of its containers, and has another out
// of date, gets both: what is added comes where what is changed begins.
func TestAnotherIncomplete(t *testing.T) {
	o := Options{Sidecar: haproxy(t)}
	want := inject(t, pod, o)
	from, to := strings.Index(want, "  - name: prepared"), strings.Index(want, "  - name: proxy\n")
	from, to = strings.LastIndex(want[:from], "\n")+1, strings.LastIndex(want[:to], "\n")+1
	lacks := want[:from] + want[to:]
	for name, in := range map[string]string{
		"up to date":  lacks,
		"out of date": strings.Replace(lacks, "haproxy:", "haproxy:old", 1),
	} {
		if diff := cmp.Diff(want, inject(t, in, o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestHolder: the sidecar with a holder has the built-in one's name, and is brought up to
// date and taken out as a whole.
func TestHolder(t *testing.T) {
	hold := fromFile(t, "hold")
	old := inject(t, pod, Options{Sidecar: hold, Image: "v1"})
	want := strings.ReplaceAll(old, "tproxy-cni:v1", "tproxy-cni:v2")
	if diff := cmp.Diff(want, inject(t, old, Options{Sidecar: hold, Image: "v2"})); diff != "" {
		t.Errorf("another image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pod, uninject(t, old, Options{Sidecar: hold})); diff != "" {
		t.Errorf("taken out (-want +got):\n%s", diff)
	}
	// Without the file the holder would stay, without a sidecar.
	var notes bytes.Buffer
	if got := uninject(t, old, Options{Notes: &notes}); got != old || !strings.Contains(notes.String(), "container tproxy-hold runs as 7089, too, and would stay") {
		t.Errorf("%s\n%s", notes.String(), cmp.Diff(old, got))
	}
	// The built-in one has no holder, and its container is another.
	notes.Reset()
	plain := inject(t, pod, Options{})
	if got := inject(t, plain, Options{Sidecar: hold, Notes: &notes}); got != plain || !strings.Contains(notes.String(), "take that out first") {
		t.Errorf("%s\n%s", notes.String(), cmp.Diff(plain, got))
	}
}

// TestNoLastNewline: volumes at the end of a file that does not end with a newline.
func TestNoLastNewline(t *testing.T) {
	o := Options{Sidecar: haproxy(t)}
	for _, end := range []string{"\n", "\r\n"} {
		for _, volumes := range []string{"  volumes:\n  - name: data\n    emptyDir: {}", "  volumes:\n  - name: data # why", "  volumes: [{name: data}]", "  volumes: []", ""} {
			in := strings.ReplaceAll(strings.TrimSuffix(pod+volumes, "\n"), "\n", end)
			got := inject(t, in, o)
			if diff := cmp.Diff(in, uninject(t, got, o)); diff != "" {
				t.Errorf("taken back (-want +got):\n%s", diff)
			}
		}
	}
}
