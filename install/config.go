package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/install/node"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// port is the default port of health and metrics, in the node's network
// namespace: below the NodePort range (30000-32767) and the ephemeral range, and
// not used by the common exporters and agents. Its digits contain the sidecar's
// uid.
const port = 17089

// config is the result of the command line and the environment.
type config struct {
	confDir, binDir string
	once            bool
	removeBinary    bool
	keepBinary      bool // of v0.1.0, whose uninstall removed it
	force           bool
	cacheDir        string
	maxConfNum      *int   // containerd's; nil: ask the runtime
	network         string // its name; empty: that of the first list
	morePluginDirs  bool
	listen          string // [ADDRESS]:PORT of health and metrics
	preflight       bool
	repair          bool
	repairEvery     time.Duration
	criSocket       string
	json            bool // what status and explain print
	iface           string
	files           []string // to inject the sidecar into; "-" is stdin
	recursive       bool
	image           string // the sidecar's, for inject
	sidecar         string // file of another proxy's, for inject; empty: the built-in one
	explain         explainConfig
	log             flags.Log

	// settings are the given settings of a pod, by name: the node's defaults for
	// install, the pod's own for setup.
	settings map[string]string
}

// arguments are those of a command beside its flags, for --help.
var arguments = map[string]string{"explain": " NAMESPACE/POD, or --netns PATH --mode MODE"}

// newFlags returns the flags of a command, which set c. The settings of a pod come
// from package settings.
func newFlags(command string, c *config) *flags.Set {
	s := flags.New("TPROXY_", "tproxy-install "+command+arguments[command])
	on := func(commands ...string) bool { return slices.Contains(commands, command) }
	if on("install", "uninstall") {
		s.Add("cni-conf-dir", "/etc/cni/net.d", "`directory` of the node's CNI configurations", directory(&c.confDir))
		s.Add("cni-bin-dir", "/opt/cni/bin", "`directory` of the node's CNI plugins", directory(&c.binDir))
		s.Bool(&c.once, "once", false, "install or uninstall once, verify it and exit")
		s.Add("listen", fmt.Sprintf(":%d", port), "`address` of /healthz, /readyz and /metrics", listen(&c.listen))
	}
	if on("uninstall") {
		s.Bool(&c.removeBinary, "remove-binary", false, "also remove the plugin's binary, when no pod from before needs it: CRI-O and Multus delete a pod with the list it was started with")
		s.Bool(&c.keepBinary, "keep-binary", false, "obsolete: the binary stays without --remove-binary")
		s.Bool(&c.force, "force", false, "with --remove-binary: remove it whatever is cached; right for containerd without Multus, which deletes pods by the list of the day")
		s.Add("cni-cache-dir", node.DefaultCacheDir, "`directory` where the node's runtimes keep what each pod was started with", directory(&c.cacheDir))
	}
	if on("install") {
		s.Bool(&c.morePluginDirs, "more-plugin-dirs", false, "the runtime has several plugin directories: do not require the network's plugin in --cni-bin-dir")
		s.Add("max-conf-num", "", "containerd's max_conf_num, a `number`; by default what the runtime at --cri-socket says, or 1 without a socket there", maxConfNum(&c.maxConfNum))
		s.Bool(&c.preflight, "preflight", true, "check at start what this kernel lacks for each mode")
		s.Bool(&c.repair, "repair", false, "keep annotated pods as the plugin programs them, also those that started without it; needs --cri-socket and a privileged container")
		s.Add("repair-every", "15s", "`time` between two looks at the pods, for --repair", period(&c.repairEvery))
		s.Add("cri-socket", "/run/containerd/containerd.sock", "`socket` of the container runtime, for --repair and for what --max-conf-num says", socket(&c.criSocket))
	}
	if on("status", "explain") {
		s.Add("cni-conf-dir", "", "`directory` of the node's CNI configurations; by default the first usual one that is there", directory(&c.confDir))
		s.Add("cni-bin-dir", "", "`directory` of the node's CNI plugins; the same", directory(&c.binDir))
		s.Add("cri-socket", "", "`socket` of the container runtime; the same", socket(&c.criSocket))
		s.Bool(&c.json, "json", false, "print JSON")
	}
	if on("install", "status", "explain") {
		s.Add("network-name", "", "`name` of the network that the runtime uses, as CRI-O's cni_default_network; by default the first configuration's", flags.Text(&c.network))
	}
	if on("setup") {
		s.Add("interface", "eth0", "`name` of the pod's interface", flags.Text(&c.iface))
	}
	if on("inject", "uninject") {
		s.Each("f", "-", "`file` of YAML or JSON, or a directory with such files; - for standard input", func(path string) error {
			c.files = append(c.files, path)
			return nil
		})
		s.Bool(&c.recursive, "R", false, "read directories with all that is below them")
		s.Add("sidecar", "", "`file` with another proxy's sidecar: a pod or workload of which the init containers and volumes are added, or taken out, as in k8s/proxies", flags.Text(&c.sidecar))
	}
	if on("inject") {
		s.Add("mode", "", "`nat|tproxy`, for pods that do not choose a mode", c.setting("mode"))
		s.Add("image", inject.DefaultImage, "`image` of the sidecar", flags.Text(&c.image))
	}
	if on("explain") {
		c.explain.flags(s)
		s.Add("interface", "eth0", "`name` of the pod's interface, with --netns", flags.Text(&c.iface))
	}
	s.Log(&c.log)
	if on("install", "setup", "explain") {
		for _, one := range settings.All() {
			s.Add(one.Name, "", one.Usage, c.setting(one.Name))
		}
	}
	if on("install") {
		s.Add(settings.ExemptNamespaces, "", settings.ExemptUsage, c.setting(settings.ExemptNamespaces))
	}
	return s
}

// directory takes an absolute path: in `--cni-conf-dir --once`, where the value is
// missing, "--once" would be the directory.
func directory(to *string) func(string) error {
	return func(s string) error {
		if *to = s; !filepath.IsAbs(s) {
			return errors.New("want an absolute path")
		}
		return nil
	}
}

// period takes the time between two looks: each costs some milliseconds a pod.
func period(to *time.Duration) func(string) error {
	return func(s string) (err error) {
		if *to, err = time.ParseDuration(s); err != nil || *to < time.Second || *to > time.Hour {
			return errors.New("want a time of 1s to 1h")
		}
		return nil
	}
}

func maxConfNum(to **int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if s == "" {
			return nil
		}
		if *to = &n; err != nil || n < 0 {
			return errors.New("want a number, 0 for all configurations")
		}
		return nil
	}
}

func listen(to *string) func(string) error {
	return func(s string) error {
		_, port, err := net.SplitHostPort(s)
		if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
			return errors.New("want [ADDRESS]:PORT")
		}
		*to = s
		return nil
	}
}

func socket(to *string) func(string) error {
	return func(s string) error { return directory(to)(strings.TrimPrefix(s, "unix://")) }
}

// setting keeps the text: package settings validates it.
func (c *config) setting(name string) func(string) error {
	return func(s string) error { c.settings[name] = s; return nil }
}

// parseConfig reads a command's flags and the environment. The error names
// every fault.
func parseConfig(command string, w world) (config, error) {
	c := config{settings: map[string]string{}}
	var faults []error
	getenv := w.getenv
	if command == "explain" {
		getenv = withoutSettings(getenv)
	}
	if err := newFlags(command, &c).Parse(w.args[1:], getenv, w.stdout); errors.Is(err, flag.ErrHelp) {
		return c, err
	} else if err != nil {
		faults = append(faults, err)
	}
	// Validated by the plugin's code.
	if command == "explain" {
		faults = append(faults, c.explain.validate(c.settings, c.json)...)
	}
	if command == "install" || command == "setup" {
		s := settings.New()
		s.Flags(c.settings)
		if _, err := s.Config(c.iface, nil); err != nil {
			faults = append(faults, err)
		}
	}
	if c.force && !c.removeBinary {
		faults = append(faults, errors.New("--force says how to --remove-binary, which is missing"))
	}
	if c.keepBinary && c.removeBinary {
		faults = append(faults, errors.New("--keep-binary and --remove-binary are opposites: give one of them"))
	}
	if command == "setup" && c.mode() == contract.ModeNone {
		faults = append(faults, fmt.Errorf("--mode is missing (want %s or %s)", contract.ModeNAT, contract.ModeTProxy))
	}
	return c, errors.Join(faults...)
}

// packetGuard is the given choice, or the default.
func (c config) packetGuard() contract.PacketGuard {
	if g := strings.TrimSpace(c.settings["packet-guard"]); g != "" {
		return contract.PacketGuard(g)
	}
	return contract.PacketGuardRequired
}

// mode is the given mode, or contract.ModeNone.
func (c config) mode() string {
	if m := strings.TrimSpace(c.settings["mode"]); m != "" {
		return m
	}
	return contract.ModeNone
}
