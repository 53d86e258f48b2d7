package test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// demo is a manifest that deploys the echo-server.
type demo struct {
	file, mode string
	level      psa.Level
}

var demos = []demo{
	{"deploy-nat.yaml", contract.ModeNAT, psa.LevelRestricted},
	{"deploy-tproxy.yaml", contract.ModeTProxy, psa.LevelBaseline},
	{"deploy-init.yaml", contract.ModeNAT, psa.LevelPrivileged},
	{"deploy-curl.yaml", "", psa.LevelRestricted},
}

// injected is what package inject makes of a pod: the one definition of the
// sidecar.
func injected(t *testing.T, mode string) corev1.Container {
	t.Helper()
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web}]}\n"
	var out strings.Builder
	if err := inject.Inject(strings.NewReader(pod), &out, inject.Options{Mode: mode}); err != nil {
		t.Fatal(err)
	}
	return only[*corev1.Pod](t, decode(t, []byte(out.String()))).Spec.InitContainers[0]
}

// TestSidecarFollowsContract: the definition speaks of the ports, the uid and
// the modes that the programs know.
func TestSidecarFollowsContract(t *testing.T) {
	for _, mode := range []string{contract.ModeNAT, contract.ModeTProxy} {
		c := injected(t, mode)
		if diff := cmp.Diff([]string{"--mode=" + mode}, c.Args); diff != "" {
			t.Errorf("%s: args (-want +got):\n%s", mode, diff)
		}
		if p := c.Ports[0]; p.ContainerPort != contract.AdminPort {
			t.Errorf("%s: port %s is %d, want %d", mode, p.Name, p.ContainerPort, contract.AdminPort)
		}
		if uid := *c.SecurityContext.RunAsUser; uid != contract.ProxyUID {
			t.Errorf("%s: runs as %d, want %d", mode, uid, contract.ProxyUID)
		}
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
			t.Errorf("%s: no native sidecar with a startup probe", mode)
		}
		if diff := cmp.Diff([]string{"/tproxy-proxy", "ready"}, c.StartupProbe.Exec.Command); diff != "" {
			t.Errorf("%s: startup probe (-want +got):\n%s", mode, diff)
		}
		for name, p := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
			if p.HTTPGet.Port.StrVal != c.Ports[0].Name {
				t.Errorf("%s: the %s probe asks port %v", mode, name, p.HTTPGet.Port)
			}
		}
	}
}

// TestDemos: the sidecar is the one that inject writes, the namespace enforces
// the level that the file promises, and no stricter one would do.
func TestDemos(t *testing.T) {
	for _, d := range demos {
		t.Run(d.file, func(t *testing.T) {
			objects := decode(t, read(t, root+d.file))
			deployment := only[*appsv1.Deployment](t, objects)
			pod := deployment.Spec.Template
			if d.mode != "" {
				i := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == inject.Container })
				if i < 0 {
					t.Fatal("no sidecar")
				}
				if diff := cmp.Diff(injected(t, d.mode), pod.Spec.InitContainers[i]); diff != "" {
					t.Errorf("sidecar (-inject +manifest):\n%s", diff)
				}
				app := pod.Spec.Containers[0]
				if *app.SecurityContext.RunAsUser == contract.ProxyUID || app.Ports[0].ContainerPort != contract.EchoPort {
					t.Errorf("echo-server runs as %d on port %d", *app.SecurityContext.RunAsUser, app.Ports[0].ContainerPort)
				}
			}
			checkAnnotations(t, pod.Annotations)
			if got := pod.Annotations[contract.AnnotationPrefix+"mode"]; got != d.mode && d.file != "deploy-init.yaml" {
				t.Errorf("annotation mode is %q, want %q", got, d.mode)
			}
			ns := only[*corev1.Namespace](t, objects)
			if got := ns.Labels[psa.EnforceLevelLabel]; got != string(d.level) || ns.Name != deployment.Namespace {
				t.Errorf("namespace %s enforces %s, want %s", ns.Name, got, d.level)
			}
			if d.level != psa.LevelPrivileged {
				if why := refused(t, d.level, pod); why != "" {
					t.Errorf("%s refuses the pod: %s", d.level, why)
				}
			}
			for stricter, next := range map[psa.Level]psa.Level{psa.LevelPrivileged: psa.LevelBaseline, psa.LevelBaseline: psa.LevelRestricted} {
				if d.level == stricter && refused(t, next, pod) == "" {
					t.Errorf("the pod passes %s: enforce that", next)
				}
			}
		})
	}
}

// refused says why Pod Security does not admit a pod at a level.
func refused(t *testing.T, level psa.Level, pod corev1.PodTemplateSpec) string {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	result := policy.AggregateCheckResults(evaluator.EvaluatePod(
		psa.LevelVersion{Level: level, Version: psa.LatestVersion()}, &pod.ObjectMeta, &pod.Spec))
	return result.ForbiddenDetail()
}

func checkAnnotations(t *testing.T, annotations map[string]string) {
	t.Helper()
	said := settings.New()
	said.Annotations(annotations)
	if _, err := said.Config("", nil); err != nil {
		t.Error(err)
	}
}

// TestInit: the sysctls are those that the kubelet is told to allow, and each
// container but the one that sets up has no capability.
func TestInit(t *testing.T) {
	text := read(t, root+"deploy-init.yaml")
	pod := only[*appsv1.Deployment](t, decode(t, text)).Spec.Template.Spec
	if *pod.EnableServiceLinks {
		t.Error("service links")
	}
	var names []string
	for _, s := range pod.SecurityContext.Sysctls {
		names = append(names, s.Name)
		if s.Value != "1" {
			t.Errorf("%s=%s", s.Name, s.Value)
		}
	}
	if want := "--allowed-unsafe-sysctls=" + strings.Join(names, ",") + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("the comment does not name %s", want)
	}
	if diff := cmp.Diff([]string{"setup", "--mode=nat"}, pod.InitContainers[0].Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
	for _, c := range append(pod.InitContainers[1:], pod.Containers...) {
		if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, c.SecurityContext.Capabilities); diff != "" {
			t.Errorf("%s: capabilities (-want +got):\n%s", c.Name, diff)
		}
	}
}

// TestInstaller: what each of the directories for kubectl deploys.
func TestInstaller(t *testing.T) {
	capabilities := map[string][]corev1.Capability{
		"install":   {"DAC_OVERRIDE", "SYS_ADMIN", "NET_ADMIN"},
		"uninstall": {"DAC_OVERRIDE"},
	}
	volumes := map[string]int{"install": 2, "uninstall": 3, "repair": 4}
	unavailable := map[string]string{"install": "1", "repair": "1", "uninstall": "100%"}
	directories := map[string][2]string{}
	for _, p := range overlays(t) {
		directories[p.overlay] = [2]string{p.conf, p.bin}
	}
	for _, action := range actions {
		for _, d := range distributions {
			t.Run(action+"/"+d, func(t *testing.T) {
				ds := only[*appsv1.DaemonSet](t, decode(t, kustomize(t, action+"/"+d)))
				pod := ds.Spec.Template.Spec
				c := pod.Containers[0]
				if want := strings.Replace(action, "repair", "install", 1); c.Args[0] != want {
					t.Errorf("runs %s, want %s", c.Args[0], want)
				}
				if got := slices.Contains(c.Args, "--repair"); got != (action == "repair") {
					t.Errorf("--repair: %t", got)
				}
				if *pod.EnableServiceLinks {
					t.Error("service links")
				}
				if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations); diff != "" {
					t.Errorf("tolerations (-want +got):\n%s", diff)
				}
				if got := ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); got != unavailable[action] {
					t.Errorf("maxUnavailable %s, want %s", got, unavailable[action])
				}
				for i, flag := range []string{"--cni-conf-dir=", "--cni-bin-dir="} {
					if got := nodeDir(t, pod, c, flag); got != directories[d][i] {
						t.Errorf("%s is %s on the node, want %s", flag, got, directories[d][i])
					}
				}
				if !pod.HostNetwork || pod.HostPID || *pod.AutomountServiceAccountToken || pod.PriorityClassName != "system-node-critical" {
					t.Error("host network, host PIDs, token or priority are not as they should be")
				}
				s := c.SecurityContext
				if !*s.ReadOnlyRootFilesystem || *s.Privileged != (action == "repair") {
					t.Errorf("read-only root %t, privileged %t", *s.ReadOnlyRootFilesystem, *s.Privileged)
				}
				if *s.AllowPrivilegeEscalation != (action == "repair") || (s.SeccompProfile == nil) != (action == "repair") {
					t.Errorf("privilege escalation %t, seccomp %v", *s.AllowPrivilegeEscalation, s.SeccompProfile)
				}
				if action != "repair" {
					want := &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities[action]}
					if diff := cmp.Diff(want, s.Capabilities); diff != "" {
						t.Errorf("capabilities (-want +got):\n%s", diff)
					}
				}
				// MicroK8s: one mount of what the link current is in, and one that hides
				// what else is there.
				if len(pod.Volumes) != volumes[action] {
					t.Errorf("%d volumes, want %d", len(pod.Volumes), volumes[action])
				}
				checkDirectories(t, pod, c)
				hidden := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
					return m.Name == "hidden" && m.MountPath == "/var/snap/microk8s/common" && m.ReadOnly
				})
				if hidden != (d == "microk8s") {
					t.Errorf("the runtime's and the kubelet's data are hidden: %t", hidden)
				}
			})
		}
	}
}

// checkDirectories: the flags name what is mounted, and every volume is used.
func checkDirectories(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
	t.Helper()
	mounts := map[string][]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.Name] = append(mounts[m.Name], m.MountPath)
	}
	for _, v := range pod.Volumes {
		if (v.HostPath == nil) != (v.Name == "hidden") || len(mounts[v.Name]) == 0 {
			t.Errorf("volume %s is not a host path, or is not mounted", v.Name)
		}
	}
}

// nodeDir is the node's directory that a flag of the installer leads to. A link in the
// middle of it, as MicroK8s' current, must not be what is mounted, or what leads to it: a
// mount stays with what the link led to.
func nodeDir(t *testing.T, pod corev1.PodSpec, c corev1.Container, flag string) string {
	t.Helper()
	at := slices.IndexFunc(c.Args, func(a string) bool { return strings.HasPrefix(a, flag) })
	if at < 0 {
		t.Fatalf("no argument %s in %q", flag, c.Args)
	}
	dir := strings.TrimPrefix(c.Args[at], flag)
	for _, m := range c.VolumeMounts {
		rest, ok := strings.CutPrefix(dir+"/", m.MountPath+"/")
		if !ok {
			continue
		}
		v := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		path := pod.Volumes[v].HostPath.Path
		if strings.Contains(path+"/", "/current/") {
			t.Errorf("%s is a mount behind a link that moves", path)
		}
		return strings.TrimSuffix(path+"/"+rest, "/")
	}
	t.Fatalf("%s is not mounted", dir)
	return ""
}
