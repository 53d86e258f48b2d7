package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// TestSoon: the installer hears of every change and repairs it, usually within
// 0.06 s, right after another patch within 0.5 s. Its timer would not do it in
// the time of this test.
func TestSoon(t *testing.T) {
	t.Parallel()
	const name = "10-flannel.conflist"
	n := newTestNode(t, name)
	list, program := filepath.Join(n.confDir, name), filepath.Join(n.binDir, contract.PluginType)
	link := n.confDir + ".link" // as somebody may have it who runs it by hand
	must(t, os.Symlink("net.d", link))
	real := n.confDir
	n.confDir = link
	cmd := n.command("install", "--preflight=false", "--listen", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, envTimer+"=1h")
	s := n.serve(cmd)
	s.want("/readyz", 200)
	n.confDir = real
	for _, change := range []struct {
		name string
		make func()
	}{
		{"list rewritten", func() { n.writeConf(name, n.configs[name]) }},
		{"entry edited", func() { n.edit(name, `"mode":"nat"`, `"mode":"tproxy"`) }},
		{"entry moved", func() {
			n.writeConf(name, `{"name":"n","cniVersion":"1.0.0","plugins":[`+string(n.entry)+`,{"type":"ptp"}]}`)
		}},
		{"program removed", func() { must(t, os.Remove(program)) }},
		{"program replaced", func() {
			must(t, os.WriteFile(program+".other", []byte("#!/bin/sh\n"), 0o755))
			must(t, os.Rename(program+".other", program))
		}},
		{"program's mode", func() { must(t, os.Chmod(program, 0o600)) }},
		{"directory made anew", func() {
			must(t, os.Rename(n.confDir, n.confDir+".old"))
			must(t, os.Mkdir(n.confDir, 0o755))
			n.writeConf(name, n.configs[name])
		}},
		{"..data", func() { behindData(t, n) }}, // a move of the right list is no fault
		{"..data rewritten", func() { n.writeConf(name, n.configs[name]) }},
		{"..data swapped", func() {
			must(t, os.Mkdir(filepath.Join(n.confDir, "..v2"), 0o755))
			must(t, os.WriteFile(filepath.Join(n.confDir, "..v2", name), []byte(n.configs[name]), 0o600))
			must(t, os.Symlink("..v2", filepath.Join(n.confDir, "..tmp")))
			must(t, os.Rename(filepath.Join(n.confDir, "..tmp"), filepath.Join(n.confDir, "..data")))
		}},
		{"..data rewritten after the swap", func() { n.writeConf(name, n.configs[name]) }},
		{"directory behind another link", func() {
			must(t, os.Mkdir(n.confDir+".2", 0o755))
			n.confDir += ".2"
			list = filepath.Join(n.confDir, name)
			n.writeConf(name, n.configs[name])
			must(t, os.Symlink(filepath.Base(n.confDir), link+".new"))
			must(t, os.Rename(link+".new", link))
		}},
		{"and rewritten there", func() { n.writeConf(name, n.configs[name]) }},
	} {
		change.make()
		start := time.Now()
		lab.Eventually(t, change.name, func() error {
			data, err := os.ReadFile(list)
			if err != nil {
				return err
			}
			l, err := conflist.Parse(data)
			if err != nil || l.Check(n.entry) != conflist.None {
				return fmt.Errorf("%v\n%s", err, data)
			}
			return n.programRight()
		})
		t.Logf("%s: repaired after %v", change.name, time.Since(start).Round(time.Millisecond))
	}
	s.stop()
}

func (n *theNode) programRight() error {
	info, err := os.Stat(filepath.Join(n.binDir, contract.PluginType))
	if err == nil && (info.Mode().Perm() != 0o755 || info.Size() < int64(n.pad)) {
		err = errors.New(info.Mode().String())
	}
	return err
}
