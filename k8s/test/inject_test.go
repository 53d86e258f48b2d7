package test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
)

// pods are what the policy and package inject are both given.
var pods = map[string]string{
	"nat": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}}
spec: {containers: [{name: web, image: web}]}`,
	"tproxy": `
metadata: {name: web, labels: {tproxy-cni.io/inject: tproxy}}
spec: {containers: [{name: web, image: web}]}`,
	"the label decides": `
metadata: {name: web, labels: {tproxy-cni.io/inject: tproxy}, annotations: {a/b: c, tproxy-cni.io/mode: nat}}
spec: {containers: [{name: web, image: web}]}`,
	"other init containers": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {}}
spec: {initContainers: [{name: first, image: first}, {name: second, image: second}], containers: [{name: web, image: web}]}`,
	"other ports and user": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-port: "6000", tproxy-cni.io/admin-port: "6001", tproxy-cni.io/proxy-uid: "7999"}}
spec: {containers: [{name: web, image: web, ports: [{containerPort: 5000}]}]}`,
	"spaces and zeros": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-port: " 6000 ", tproxy-cni.io/admin-port: "06001", tproxy-cni.io/proxy-uid: " 007999\t"}}
spec: {containers: [{name: web, image: web, securityContext: {runAsUser: 7089}}]}`,
	"PROXY protocol": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-protocol-from: " 10.0.0.0/8, fd00::/8", tproxy-cni.io/proxy-protocol-ports: "80,8000-8099"}}
spec: {containers: [{name: web, image: web}]}`,
	"PROXY protocol, not wanted": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-protocol-from: " ", tproxy-cni.io/proxy-protocol-ports: ""}}
spec: {containers: [{name: web, image: web}]}`,
	"has it": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/mode: nat}}
spec: {initContainers: [{name: tproxy-proxy, image: mine, restartPolicy: Always, securityContext: {runAsUser: 7089}}], containers: [{name: web, image: web}]}`,
	"has it, in other words": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/mode: " nat ", tproxy-cni.io/proxy-uid: "0007999 "}}
spec: {securityContext: {runAsUser: 7999}, initContainers: [{name: tproxy-proxy, image: mine, restartPolicy: Always}], containers: [{name: web, image: web, securityContext: {runAsUser: 7089}}]}`,
	"has it as a container": `
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/mode: nat}}
spec: {containers: [{name: web, image: web}, {name: tproxy-proxy, image: mine, securityContext: {runAsUser: 7089}}]}`,
}

// hasIt says by its name that a pod has the sidecar: the policy leaves it as it is, even
// where package inject would bring it up to date.
func hasIt(name string) bool { return strings.HasPrefix(name, "has ") }

const podHead = "apiVersion: v1\nkind: Pod"

// TestInjectPolicy evaluates the admission policy with the API server's own
// code: a pod without the sidecar becomes what `tproxy-install inject` makes of
// it, one that has it stays as it is, and admission accepts both.
func TestInjectPolicy(t *testing.T) {
	objects := decode(t, read(t, root+"inject.yaml"))
	mutating := only[*admissionv1.MutatingAdmissionPolicy](t, objects)
	validating := only[*admissionv1.ValidatingAdmissionPolicy](t, objects)
	for name, text := range pods {
		t.Run(name, func(t *testing.T) {
			in := only[*corev1.Pod](t, decode(t, []byte(podHead+text)))
			if !selects(t, mutating.Spec.MatchConstraints, in) || !selects(t, validating.Spec.MatchConstraints, in) {
				t.Fatal("the policies do not select the pod")
			}
			got := mutate(t, mutating, in)
			want := in
			if !hasIt(name) {
				var out strings.Builder
				if err := inject.Inject(strings.NewReader(podHead+text), &out, inject.Options{}); err != nil {
					t.Fatal(err)
				}
				want = only[*corev1.Pod](t, decode(t, []byte(out.String())))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pod (-inject +policy):\n%s", diff)
			}
			if diff := cmp.Diff(got, mutate(t, mutating, got)); diff != "" {
				t.Errorf("a second time changes (-once +twice):\n%s", diff)
			}
			if why := validate(t, validating, got); len(why) > 0 {
				t.Errorf("refused: %q", why)
			}
		})
	}
}

// TestInjectMissing: what would run without the sidecar, or past it, is refused with the
// cure where the mutating policy is missing or left the pod alone: for our sidecar and
// for another proxy's.
func TestInjectMissing(t *testing.T) {
	chart := decode(t, mustTemplate(t, map[string]any{"inject": true, "injectSidecar": string(read(t, root+"proxies/haproxy-tcp/sidecar.yaml"))}))
	for _, policy := range []struct {
		container string
		objects   []runtime.Object
	}{{"tproxy-proxy", decode(t, read(t, root+"inject.yaml"))}, {"proxy", chart}} {
		validating := only[*admissionv1.ValidatingAdmissionPolicy](t, policy.objects)
		const none, past = "the label tproxy-cni.io/inject asks for the sidecar, and the pod has none", "the pod has the sidecar, but its connections would not go through it"
		const label = "labels: {tproxy-cni.io/inject: nat}"
		const annotated = label + ", annotations: {tproxy-cni.io/mode: nat}"
		const user = "securityContext: {runAsUser: 7089}"
		init := ", initContainers: [{name: " + policy.container + ", restartPolicy: Always, " + user + "}]"
		for _, tt := range []struct{ metadata, spec, want string }{
			{label, "", none},
			{annotated, "", none},
			{annotated, ", initContainers: [{name: other, restartPolicy: Always}]", none},
			{annotated, ", initContainers: [{name: " + policy.container + ", " + user + "}]", none},
			// Something else of that name, such as a database's proxy, is no sidecar.
			{annotated, ", initContainers: [{name: " + policy.container + ", restartPolicy: Always}]", none},
			{annotated, ", initContainers: [{name: " + policy.container + ", restartPolicy: Always, securityContext: {runAsUser: 7090}}]", none},
			{annotated, ", " + user + ", initContainers: [{name: " + policy.container + ", restartPolicy: Always, securityContext: {runAsUser: 1}}]", none},
			{strings.Replace(annotated, "mode: nat", "mode: nat, tproxy-cni.io/proxy-uid: '7090'", 1), init, none},
			{label, init, past + " as the label tproxy-cni.io/inject asks: the annotation tproxy-cni.io/mode is \"\", want \"nat\""},
			{strings.Replace(annotated, "mode: nat", "mode: tproxy", 1), init, past},
			{strings.Replace(annotated, "mode: nat", "mode: none", 1), init, past},
			{"labels: {tproxy-cni.io/inject: none}", "", "label tproxy-cni.io/inject: want nat or tproxy, or no label"},
			{"labels: {tproxy-cni.io/inject: ''}", init, "label tproxy-cni.io/inject: want nat or tproxy, or no label"},
			{label, ", hostNetwork: true", "hostNetwork: the pod has no network of its own"},
			{annotated, init, ""},
			{annotated, ", initContainers: [{name: a}, {name: " + policy.container + ", restartPolicy: Always, " + user + "}]", ""},
			{annotated, ", " + user + ", initContainers: [{name: a, securityContext: {runAsUser: 2}}, {name: " + policy.container + ", restartPolicy: Always}]", ""},
		} {
			text := podHead + "\nmetadata: {name: web, " + tt.metadata + "}\nspec: {containers: [{name: web, securityContext: {runAsUser: 1}}]" + tt.spec + "}\n"
			why := validate(t, validating, only[*corev1.Pod](t, decode(t, []byte(text))))
			if tt.want == "" && len(why) > 0 || tt.want != "" && (len(why) != 1 || !strings.HasPrefix(why[0], tt.want)) {
				t.Errorf("refused with %q, want %q, for\n%s", why, tt.want, text)
			}
			if tt.want == none && len(why) == 1 && !strings.Contains(why[0], "it needs a container "+policy.container+" that runs as 70") {
				t.Errorf("what the pod needs is not in %q", why)
			}
		}
	}
}

// TestInjectRefuses: these faults of package inject admission refuses, too. It
// does not look at ports.
func TestInjectRefuses(t *testing.T) {
	objects := decode(t, read(t, root+"inject.yaml"))
	validating := only[*admissionv1.ValidatingAdmissionPolicy](t, objects)
	for text, want := range map[string]string{
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: "yes"}}
spec: {containers: [{name: web}]}`: "label tproxy-cni.io/inject: want nat or tproxy, or no label",
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}}
spec: {hostNetwork: true, containers: [{name: web}]}`: "hostNetwork: the pod has no network of its own",
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}}
spec: {containers: [{name: web, securityContext: {runAsUser: 7089}}]}`: "a container runs as 7089",
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-uid: "1000"}}
spec: {securityContext: {runAsUser: 1000}, containers: [{name: a, securityContext: {runAsUser: 1}}, {name: web}]}`: "a container runs as 1000",
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-uid: "007089"}}
spec: {containers: [{name: web, securityContext: {runAsUser: 7089}}]}`: "a container runs as 7089",
		`
metadata: {name: web, labels: {tproxy-cni.io/inject: nat}, annotations: {tproxy-cni.io/proxy-uid: " 7089 "}}
spec: {initContainers: [{name: first, securityContext: {runAsUser: 7089}}], containers: [{name: web}]}`: "a container runs as 7089",
	} {
		why := validate(t, validating, only[*corev1.Pod](t, decode(t, []byte(podHead+text))))
		why = slices.DeleteFunc(why, func(w string) bool { return strings.Contains(w, "asks for the sidecar") }) // here nothing adds it
		if len(why) != 1 || !strings.HasPrefix(why[0], want) {
			t.Errorf("refused with %q, want %q, for%s", why, want, text)
		}
		if err := inject.Inject(strings.NewReader(podHead+text), &strings.Builder{}, inject.Options{}); err == nil {
			t.Errorf("package inject finds no fault in%s", text)
		}
	}
}

func selects(t *testing.T, m *admissionv1.MatchResources, pod *corev1.Pod) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(m.ObjectSelector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(pod.Labels))
}

// expression is what the API server's CEL compiler takes.
type expression struct {
	name, text string
	returns    *cel.Type
}

func (e expression) GetName() string          { return e.name }
func (e expression) GetExpression() string    { return e.text }
func (e expression) ReturnTypes() []*cel.Type { return []*cel.Type{e.returns} }

// compiler has a policy's variables.
func compiler(t *testing.T, variables []admissionv1.Variable) *plugincel.CompositedCompiler {
	t.Helper()
	c, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables {
		r := c.CompileAndStoreVariable(expression{v.Name, v.Expression, cel.AnyType}, plugincel.OptionalVariableDeclarations{}, environment.NewExpressions)
		if r.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, r.Error)
		}
	}
	return c
}

// attributes are those of the pod's creation.
func attributes(pod *corev1.Pod) *admission.VersionedAttributes {
	gvk, gvr := corev1.SchemeGroupVersion.WithKind("Pod"), corev1.SchemeGroupVersion.WithResource("pods")
	return &admission.VersionedAttributes{
		Attributes:      admission.NewAttributesRecord(pod, nil, gvk, "web", pod.Name, gvr, "", admission.Create, &metav1.CreateOptions{}, false, nil),
		VersionedKind:   gvk,
		VersionedObject: admission.NewLazyObject(pod.DeepCopy()),
	}
}

// evaluate is what the expressions say of a pod.
func evaluate(t *testing.T, c *plugincel.CompositedCompiler, pod *corev1.Pod, returns *cel.Type, texts ...string) (values []any) {
	t.Helper()
	var all []plugincel.ExpressionAccessor
	for _, text := range texts {
		all = append(all, expression{"", text, returns})
	}
	e := c.CompileCondition(all, plugincel.OptionalVariableDeclarations{}, environment.NewExpressions)
	for _, err := range e.CompilationErrors() {
		t.Fatal(err)
	}
	a := attributes(pod)
	request := plugincel.CreateAdmissionRequest(a.Attributes, metav1.GroupVersionResource(a.GetResource()), metav1.GroupVersionKind(a.VersionedKind))
	results, _, err := e.ForInput(c.CreateContext(context.Background()), a, request, plugincel.OptionalVariableBindings{}, nil, celconfig.RuntimeCELCostBudget)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		values = append(values, r.EvalResult.Value())
	}
	return values
}

// mutate is what the policy makes of a pod, with the image of inject.yaml.
func mutate(t *testing.T, p *admissionv1.MutatingAdmissionPolicy, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return mutateWith(t, p, only[*corev1.PodTemplate](t, decode(t, read(t, root+"inject.yaml"))), pod)
}

func mutateWith(t *testing.T, p *admissionv1.MutatingAdmissionPolicy, params *corev1.PodTemplate, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	c := compiler(t, p.Spec.Variables)
	for _, m := range p.Spec.MatchConditions {
		if !evaluate(t, c, pod, cel.BoolType, m.Expression)[0].(bool) {
			return pod
		}
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	text := &patch.JSONPatchCondition{Expression: p.Spec.Mutations[0].JSONPatch.Expression}
	patcher := patch.NewJSONPatcher(c.CompileMutatingEvaluator(text, plugincel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil, HasPatchTypes: true}, environment.NewExpressions))
	a := attributes(pod)
	out, err := patcher.Patch(c.CreateContext(context.Background()), patch.Request{
		MatchedResource:     a.GetResource(),
		VersionedAttributes: a,
		ObjectInterfaces:    admission.NewObjectInterfacesFromScheme(scheme),
		OptionalVariables:   plugincel.OptionalVariableBindings{VersionedParams: params},
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		t.Fatal(err)
	}
	// As it comes from the client: with the empty fields of the Go types gone.
	b, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return only[*corev1.Pod](t, decode(t, b))
}

// validate are the messages of the validations that fail.
func validate(t *testing.T, p *admissionv1.ValidatingAdmissionPolicy, pod *corev1.Pod) (why []string) {
	t.Helper()
	c := compiler(t, p.Spec.Variables)
	for _, v := range p.Spec.Validations {
		if evaluate(t, c, pod, cel.BoolType, v.Expression)[0].(bool) {
			continue
		}
		message := v.Message
		if v.MessageExpression != "" {
			message = fmt.Sprint(evaluate(t, c, pod, cel.StringType, v.MessageExpression)[0])
		}
		why = append(why, message)
	}
	return why
}
