package overview

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tproxy-cni/tproxy-cni/install/preflight"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/settings"
)

// runInstaller is the cure for most that is wrong with a node.
const runInstaller = "run the installer on this node, or look at its log"

func (f Facts) node() NodeReport {
	n := NodeReport{
		Name: printable.Word(f.Node), Kernel: printable.Word(f.Kernel), InstallerVersion: f.Installer,
		PluginVersion: f.Sight.Version, Plugin: f.Sight.Binary, ConfDir: f.Sight.ConfDir, List: printable.Word(f.Sight.List),
		DefaultMode: contract.ModeNone, Modes: f.Kernels,
	}
	if n.Modes == nil {
		n.Modes = []preflight.Verdict{}
	}
	if f.Sight.List == "" {
		n.List = ""
	}
	if json.Valid(f.Sight.Entry) {
		n.Entry = ascii(f.Sight.Entry)
	}
	mode, guard, entry := f.entry()
	n.DefaultMode, n.PacketGuard = mode, string(guard)
	n.Checks = append(n.Checks, Check{"entry", entry}, Check{"plugin", f.plugin()})
	if v := f.Sight.Version; v != "" && v != f.Installer {
		n.Checks = append(n.Checks, Check{"version", Line{Note, fmt.Sprintf("this program is %s, the plugin is %s", f.Installer, v), ""}})
	}
	for _, l := range f.kernel(mode, guard) {
		n.Checks = append(n.Checks, Check{"kernel", l})
	}
	for _, note := range f.Sight.Notes {
		n.Checks = append(n.Checks, Check{"configuration", Line{Note, printable.Line(note), ""}})
	}
	return n
}

// entry judges the plugin's entry. mode and guard are the node's defaults.
func (f Facts) entry() (mode string, guard contract.PacketGuard, l Line) {
	c, l := f.readEntry()
	return string(c.Mode), c.PacketGuard, l
}

// readEntry is entry with all of the defaults, those built in where it cannot be read.
func (f Facts) readEntry() (intercept.Config, Line) {
	none := intercept.Default(contract.ModeNone)
	s := settings.New()
	if f.Sight.Entry != nil {
		s.Entry(f.Sight.Entry)
	}
	c, err := s.Config("eth0", nil)
	list := filepath.Join(f.Sight.ConfDir, f.Sight.List)
	network := ""
	if f.Sight.Network != "" {
		network = " of network " + f.Sight.Network
	}
	switch {
	case errors.Is(f.Sight.EntryErr, fs.ErrPermission):
		return none, Line{Unknown, "entry: " + printable.Line(f.Sight.EntryErr.Error()), "run this as root"}
	case errors.Is(f.Sight.EntryErr, fs.ErrNotExist):
		return none, Line{
			Unknown, "entry: " + printable.Line(f.Sight.EntryErr.Error()),
			"give the runtime's directory of CNI configurations: --cni-conf-dir",
		}
	case f.Sight.EntryErr != nil:
		return none, Line{Fault, "entry: " + printable.Line(f.Sight.EntryErr.Error()) + ": new pods are not intercepted", runInstaller}
	case err != nil:
		return none, Line{
			Fault, "entry in " + printable.Word(list) + ": " + printable.Line(err.Error()) + ": every new pod fails",
			"mend the entry, or the installer's flags that make it",
		}
	case c.Mode == contract.ModeNone:
		return c, Line{OK, "entry in " + printable.Word(list) + network + ", for pods with the annotation", ""}
	}
	return c, Line{OK, fmt.Sprintf("entry in %s%s, default mode %s; exempt namespaces: %s", printable.Word(list), network, c.Mode, s.Exempt()), ""}
}

func (f Facts) plugin() Line {
	switch err := f.Sight.BinaryErr; {
	case errors.Is(err, fs.ErrPermission):
		return Line{Unknown, "plugin: " + printable.Line(err.Error()), "run this as root"}
	case errors.Is(err, fs.ErrNotExist) && errors.Is(f.Sight.EntryErr, fs.ErrNotExist):
		return Line{Unknown, "plugin: " + printable.Line(err.Error()), "give the runtime's directory of CNI plugins: --cni-bin-dir"}
	case err != nil && f.Sight.Entry == nil:
		return Line{Fault, "plugin: " + printable.Line(err.Error()), runInstaller}
	case err != nil:
		return Line{Fault, "plugin: " + printable.Line(err.Error()) + ": every new pod fails", runInstaller}
	}
	return Line{OK, fmt.Sprintf("plugin %s, %s", printable.Word(f.Sight.Binary), f.Sight.Version), ""}
}

// kernel judges what the kernel can do, for the node's default mode and the modes
// that pods ask for.
func (f Facts) kernel(mode string, guard contract.PacketGuard) (lines []Line) {
	if f.KernelErr != nil {
		return []Line{{Unknown, "kernel: " + printable.Line(f.KernelErr.Error()), "run this as root"}}
	}
	needed := map[string]bool{mode: true}
	// A pod may ask for less than the node's default, and not for less than its entry.
	required := mode != contract.ModeNone && guard == contract.PacketGuardRequired
	for _, p := range f.Pods {
		needed[string(p.Finding.Mode)] = true
		required = required || p.Finding.Mode != contract.ModeNone && p.Finding.Config.PacketGuard == contract.PacketGuardRequired
	}
	var works []string
	var guards []string
	for _, v := range f.Kernels {
		if v.Guard != "" && v.Guard != contract.GuardNFT && !slices.Contains(guards, v.Text) {
			guards = append(guards, v.Text)
		}
		switch {
		case v.Error != "":
			lines = append(lines, Line{Unknown, fmt.Sprintf("kernel, mode %s: %s", v.Mode, printable.Line(v.Error)), "run this as root"})
		case len(v.Missing) == 0:
			works = append(works, v.Mode)
		case needed[v.Mode]:
			lines = append(lines, Line{
				Fault, fmt.Sprintf("kernel: mode %s lacks %s", v.Mode, printable.List(v.Missing, ", ")),
				"load or build what is missing: docs/REFERENCE.md names the kernel option of each",
			})
		default:
			lines = append(lines, Line{Note, fmt.Sprintf("kernel: mode %s lacks %s; nobody asks for it", v.Mode, printable.List(v.Missing, ", ")), ""})
		}
	}
	if len(works) > 0 {
		lines = append([]Line{{OK, fmt.Sprintf("kernel %s: %s", printable.Word(f.Kernel), strings.Join(works, " and ")), ""}}, lines...)
	}
	for _, text := range guards {
		l := Line{Note, "kernel: " + printable.Line(text), ""}
		if required {
			l = Line{
				Fault, "kernel: the whole packet guard is required and lacks the " + intercept.EgressHook + ": pods that do not allow less do not start",
				"a newer kernel, or packet-guard " + contract.PacketGuardBestEffort + " in the installer's settings",
			}
		}
		lines = append(lines, l)
	}
	return lines
}

func (f Facts) runtime() Runtime {
	switch {
	case f.Socket == "":
		return Runtime{"", Line{Unknown, "no container runtime's socket found: the pods are not known", "give it: --cri-socket"}}
	case f.RuntimeErr != nil:
		return Runtime{f.Socket, Line{
			Unknown, fmt.Sprintf("container runtime at %s: %s", f.Socket, printable.Line(f.RuntimeErr.Error())),
			"run this as root, with the socket of the runtime that the kubelet uses: --cri-socket",
		}}
	}
	return Runtime{f.Socket, Line{OK, "container runtime at " + f.Socket, ""}}
}

// ascii is the same JSON without characters that a terminal might take for its own:
// JSON has them in strings only, where each can be written as its number.
func ascii(object []byte) []byte {
	var out []byte
	for _, r := range string(object) {
		if r < utf8.RuneSelf && r != 0x7f {
			out = append(out, byte(r))
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, unit)
		}
	}
	return out
}
