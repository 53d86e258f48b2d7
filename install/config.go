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

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/plugin/settings"
)

// port is where health and metrics are answered on the node, which the
// installer shares: below the NodePort range (30000-32767) and the ephemeral
// one, and nobody's among the usual exporters and agents. The digits are the
// sidecar's uid.
const port = 17089

// config is what the command line and the environment say.
type config struct {
	confDir, binDir string
	once            bool
	keepBinary      bool
	morePluginDirs  bool
	listen          string // where health and metrics are answered
	preflight       bool
	repair          bool
	criSocket       string
	iface           string
	file            string // to inject the sidecar into; "-" is stdin
	image           string // the sidecar's, for inject
	log             flags.Log

	// settings are those of a pod that were given, by name: node defaults in
	// install, the pod's own in setup.
	settings map[string]string
}

// option is a flag of some commands.
type option struct {
	flags.Flag[config]
	commands []string
}

var (
	onNode      = []string{"install", "uninstall"}
	onInstall   = []string{"install"}
	onUninstall = []string{"uninstall"}
	onSetup     = []string{"setup"}
	onInject    = []string{"inject"}
	always      = []string{"install", "uninstall", "setup", "preflight", "inject", "version"}
)

// options are all but the settings of a pod, which come from package settings.
var options = slices.Concat(
	of(onNode,
		opt("cni-conf-dir", "/etc/cni/net.d", "`directory` of the node's CNI configurations",
			directory(func(c *config) *string { return &c.confDir })),
		opt("cni-bin-dir", "/opt/cni/bin", "`directory` of the node's CNI plugins",
			directory(func(c *config) *string { return &c.binDir })),
		opt("once", "false", "do it, verify it and end",
			flags.Boolean(func(c *config) *bool { return &c.once })),
		opt("listen", fmt.Sprintf(":%d", port), "`address` that answers /healthz, /readyz and /metrics", setListen),
	),
	of(onUninstall,
		opt("keep-binary", "false", "leave the plugin's program, which CRI-O runs when a pod from before ends",
			flags.Boolean(func(c *config) *bool { return &c.keepBinary })),
	),
	of(onInstall,
		opt("more-plugin-dirs", "false", "the runtime has plugins in directories besides --cni-bin-dir, so that the network's own may be elsewhere",
			flags.Boolean(func(c *config) *bool { return &c.morePluginDirs })),
		opt("preflight", "true", "find out at start what this kernel lacks",
			flags.Boolean(func(c *config) *bool { return &c.preflight })),
		opt("repair", "false", "program annotated pods that started without the plugin; needs --cri-socket and a privileged container",
			flags.Boolean(func(c *config) *bool { return &c.repair })),
		opt("cri-socket", "/run/containerd/containerd.sock", "`socket` of the container runtime, for --repair", setSocket),
	),
	of(onSetup,
		opt("interface", "eth0", "`name` of the pod's interface",
			flags.Text(func(c *config) *string { return &c.iface })),
	),
	of(onInject,
		opt("f", "-", "`file` of YAML or JSON to add the sidecar to, - for standard input",
			flags.Text(func(c *config) *string { return &c.file })),
		opt("mode", "", "`nat|tproxy`, where a pod does not say it itself", setting("mode")),
		opt("image", inject.DefaultImage, "`image` of the sidecar",
			flags.Text(func(c *config) *string { return &c.image })),
	),
	of(always, flags.LogFlags("TPROXY_", func(c *config) *flags.Log { return &c.log })...),
)

func of(commands []string, list ...flags.Flag[config]) (os []option) {
	for _, f := range list {
		os = append(os, option{f, commands})
	}
	return os
}

// opt is a flag with its environment variable; one-letter flags have none.
func opt(name, preset, usage string, set func(*config, string) error) flags.Flag[config] {
	f := flags.Flag[config]{Name: name, Preset: preset, Usage: usage, Set: set}
	f.Bool = preset == "true" || preset == "false"
	if len(name) > 1 {
		f.Env = "TPROXY_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	}
	return f
}

// directory is a Set for an absolute path: of `--cni-conf-dir --once`, with the
// value forgotten, "--once" would be the directory.
func directory(field func(*config) *string) func(*config, string) error {
	return func(c *config, s string) error {
		if *field(c) = s; !filepath.IsAbs(s) {
			return errors.New("want an absolute path")
		}
		return nil
	}
}

func setListen(c *config, s string) error {
	_, port, err := net.SplitHostPort(s)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		return errors.New("want [ADDRESS]:PORT")
	}
	c.listen = s
	return nil
}

func setSocket(c *config, s string) error {
	c.criSocket = strings.TrimPrefix(s, "unix://")
	if !strings.HasPrefix(c.criSocket, "/") {
		return errors.New("want an absolute path")
	}
	return nil
}

// setting keeps the text: package settings says whether it is valid.
func setting(name string) func(*config, string) error {
	return func(c *config, s string) error { c.settings[name] = s; return nil }
}

// flagsOf are a command's: its own, and the settings of a pod where it takes
// them.
func flagsOf(command string) (list []flags.Flag[config]) {
	for _, o := range options {
		if slices.Contains(o.commands, command) {
			list = append(list, o.Flag)
		}
	}
	if command == "install" || command == "setup" {
		for _, s := range settings.All() {
			list = append(list, opt(s.Name, "", s.Usage, setting(s.Name)))
		}
	}
	return list
}

// parseConfig reads a command's flags and the environment. The error names
// every fault.
func parseConfig(command string, w world) (config, error) {
	c := config{settings: map[string]string{}}
	var faults []error
	if err := flags.Parse(&c, flagsOf(command), "tproxy-install "+command, w.args[1:], w.getenv, w.stdout); errors.Is(err, flag.ErrHelp) {
		return c, err
	} else if err != nil {
		faults = append(faults, err)
	}
	// The same code as the plugin's says what is valid.
	if command == "install" || command == "setup" {
		s := settings.New()
		s.Flags(c.settings)
		if _, err := s.Config(c.iface, nil); err != nil {
			faults = append(faults, err)
		}
	}
	if command == "setup" && c.mode() == contract.ModeNone {
		faults = append(faults, fmt.Errorf("--mode is missing (want %s or %s)", contract.ModeNAT, contract.ModeTProxy))
	}
	return c, errors.Join(faults...)
}

// mode is the one given, or none.
func (c config) mode() string {
	if m := strings.TrimSpace(c.settings["mode"]); m != "" {
		return m
	}
	return contract.ModeNone
}
