package inject

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func haproxy(t *testing.T) Sidecar {
	t.Helper()
	text, err := os.ReadFile("../../k8s/proxies/haproxy-http/sidecar.yaml")
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
