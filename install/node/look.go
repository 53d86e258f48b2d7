package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Sight is what Look saw. Its texts are printable.
type Sight struct {
	ConfDir  string
	Network  string // the name that was asked for
	List     string // name of the file that the runtime uses; empty if there is none
	Entry    []byte // the plugin's entry in it; nil if there is none
	EntryErr error  // why pods are not intercepted by the entry, nil if they are

	Binary    string // path of the plugin's program
	Version   string // what it says of itself; empty if it does not run
	BinaryErr error  // why it does not run, nil if it does
	Notes     []string
}

// Look looks at a node whose directories are these, without a lock and without
// changing anything: it needs to read the first and to run the plugin in the
// second. network is that of Node.
func Look(ctx context.Context, confDir, binDir, network string) (s Sight) {
	s.ConfDir, s.Network = confDir, printable.Word(network)
	if network == "" {
		s.Network = ""
	}
	s.List, s.Entry, s.Notes, s.EntryErr = findEntry(confDir, network)
	b := Binary{Dir: binDir}
	s.Binary = b.path()
	if s.Version, s.BinaryErr = programVersion(ctx, s.Binary); s.BinaryErr == nil {
		_, s.BinaryErr = askVersion(ctx, s.Binary)
	}
	return s
}

// findEntry finds the plugin's entry in the configuration that runtimes use.
func findEntry(dir, network string) (list string, entry []byte, notes []string, err error) {
	files, notes, err := readConfDir(dir)
	if err != nil {
		return "", nil, notes, err
	}
	for _, f := range files {
		if f.err != nil {
			return f.name, nil, notes, f.unreadable()
		}
		if err := loadable(f); err != nil {
			notes = append(notes, fmt.Sprintf("%s is invalid (%s): CRI-O skips it, containerd loads no configuration while it is there",
				f.shown(), printable.Line(err.Error())))
			continue
		}
		if network != "" && f.network() != network {
			continue
		}
		if filepath.Ext(f.name) != ".conflist" {
			return f.name, nil, notes, fmt.Errorf("%s has no entry of %s", f.shown(), contract.PluginType)
		}
		l, err := conflist.Parse(f.data)
		if err != nil {
			return f.name, nil, notes, fmt.Errorf("%s: %w", f.shown(), err)
		}
		entry = l.Entry()
		if fault := l.Check(entry); fault != conflist.None {
			err = fmt.Errorf("%s: %s", f.shown(), fault)
		}
		return f.name, entry, notes, err
	}
	if network != "" {
		return "", nil, notes, fmt.Errorf("no network configuration in %s is named %s", dir, printable.Word(network))
	}
	return "", nil, notes, errors.New("no network configuration in " + dir)
}

// programVersion is what the program at path says with --version, without its
// name. It waits 10 s at most.
func programVersion(ctx context.Context, path string) (string, error) {
	if info, err := os.Stat(path); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", path)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", path, err)
	}
	words := strings.Fields(string(out))
	if i := slices.Index(words, contract.PluginType); i >= 0 {
		words = words[i+1:]
	}
	return printable.Short(strings.Join(words, " ")), nil
}
