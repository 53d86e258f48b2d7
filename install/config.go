package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/install/inject"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
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
	listen          string // where health and metrics are answered
	preflight       bool
	repair          bool
	criSocket       string
	iface           string
	file            string // to inject the sidecar into; "-" is stdin
	image           string // the sidecar's, for inject
	logLevel        slog.Level
	logFormat       string

	// settings are those of a pod that were given, by name: node defaults in
	// install, the pod's own in setup.
	settings map[string]string
}

// option is one value that has a flag and an environment variable.
type option struct {
	flag, preset, usage string
	boolean             bool
	commands            []string

	// set puts the text into c or returns what is allowed instead.
	set func(c *config, text string) error
}

var (
	onNode    = []string{"install", "uninstall"}
	onInstall = []string{"install"}
	onSetup   = []string{"setup"}
	onInject  = []string{"inject"}
	always    = []string{"install", "uninstall", "setup", "preflight", "inject", "version"}
)

func text(field func(*config) *string) func(*config, string) error {
	return func(c *config, s string) error {
		if *field(c) = s; s == "" {
			return errors.New("want a value")
		}
		return nil
	}
}

func boolean(field func(*config) *bool) func(*config, string) error {
	return func(c *config, s string) (err error) {
		if *field(c), err = strconv.ParseBool(s); err != nil {
			return errors.New("want true or false")
		}
		return nil
	}
}

// options are all but the settings of a pod, which come from package settings.
var options = []option{
	{
		"cni-conf-dir", "/etc/cni/net.d", "`directory` of the node's CNI configurations", false, onNode,
		text(func(c *config) *string { return &c.confDir }),
	},
	{
		"cni-bin-dir", "/opt/cni/bin", "`directory` of the node's CNI plugins", false, onNode,
		text(func(c *config) *string { return &c.binDir }),
	},
	{
		"once", "false", "do it, verify it and end", true, onNode,
		boolean(func(c *config) *bool { return &c.once }),
	},
	{
		"listen", fmt.Sprintf(":%d", port), "`address` that answers /healthz, /readyz and /metrics", false, onNode,
		func(c *config, s string) error {
			if _, _, err := net.SplitHostPort(s); err != nil {
				return errors.New("want [ADDRESS]:PORT")
			}
			c.listen = s
			return nil
		},
	},
	{
		"keep-binary", "false", "leave the plugin's program, which CRI-O runs when a pod from before ends", true,
		[]string{"uninstall"},
		boolean(func(c *config) *bool { return &c.keepBinary }),
	},
	{
		"preflight", "true", "find out at start what this kernel lacks", true, onInstall,
		boolean(func(c *config) *bool { return &c.preflight }),
	},
	{
		"repair", "false", "program annotated pods that started without the plugin; needs --cri-socket and a privileged container", true, onInstall,
		boolean(func(c *config) *bool { return &c.repair }),
	},
	{
		"cri-socket", "/run/containerd/containerd.sock", "`socket` of the container runtime, for --repair", false, onInstall,
		func(c *config, s string) error {
			c.criSocket = strings.TrimPrefix(s, "unix://")
			if !strings.HasPrefix(c.criSocket, "/") {
				return errors.New("want an absolute path")
			}
			return nil
		},
	},
	{
		"interface", "eth0", "`name` of the pod's interface", false, onSetup,
		text(func(c *config) *string { return &c.iface }),
	},
	{
		"f", "-", "`file` of YAML or JSON to add the sidecar to, - for standard input", false, onInject,
		text(func(c *config) *string { return &c.file }),
	},
	{
		"mode", "", "`nat|tproxy`, where a pod does not say it itself", false, onInject,
		func(c *config, s string) error { c.settings["mode"] = s; return nil },
	},
	{
		"image", inject.DefaultImage, "`image` of the sidecar", false, onInject,
		text(func(c *config) *string { return &c.image }),
	},
	{
		"log-level", "info", "`debug|info|warn|error`", false, always,
		func(c *config, s string) error {
			if c.logLevel.UnmarshalText([]byte(s)) != nil {
				return errors.New("want debug, info, warn or error")
			}
			return nil
		},
	},
	{
		"log-format", "text", "`text|json`", false, always,
		func(c *config, s string) error {
			if c.logFormat = s; s != "text" && s != "json" {
				return errors.New("want text or json")
			}
			return nil
		},
	},
}

// optionsOf are a command's: its own, and the settings of a pod where it
// takes them.
func optionsOf(command string) (list []option) {
	for _, o := range options {
		if slices.Contains(o.commands, command) {
			list = append(list, o)
		}
	}
	if command != "install" && command != "setup" {
		return list
	}
	for _, s := range settings.All() {
		list = append(list, option{flag: s.Name, usage: s.Usage, set: func(c *config, text string) error {
			c.settings[s.Name] = text
			return nil
		}})
	}
	return list
}

// parseConfig reads a command's flags, then for each that is absent its
// environment variable. The error names every fault.
func parseConfig(command string, w world) (config, error) {
	c := config{settings: map[string]string{}}
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	list := optionsOf(command)
	for _, o := range list {
		usage := o.usage
		if e := env(o.flag); e != "" {
			usage += " (" + e + ")"
		}
		if o.boolean {
			fs.Bool(o.flag, o.preset == "true", usage)
		} else {
			fs.String(o.flag, o.preset, usage)
		}
	}
	if err := fs.Parse(w.args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(w.stdout)
			fs.PrintDefaults()
		}
		return c, err
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })

	var faults []error
	if fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	for _, o := range list {
		name, text := "--"+o.flag, fs.Lookup(o.flag).Value.String()
		if e := env(o.flag); e != "" && w.getenv(e) != "" && !given[o.flag] {
			name, text = e, w.getenv(e)
		} else if o.preset == "" && !given[o.flag] {
			continue
		}
		if err := o.set(&c, text); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: %w", name, text, err))
		}
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

// env is the name of a flag's environment variable; one-letter flags have none.
func env(flag string) string {
	if len(flag) == 1 {
		return ""
	}
	return "TPROXY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// mode is the one given, or none.
func (c config) mode() string {
	if m := strings.TrimSpace(c.settings["mode"]); m != "" {
		return m
	}
	return contract.ModeNone
}
