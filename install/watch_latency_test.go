package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestWatchLatency: the installer gets an event for every change and repairs it,
// usually within 0.06 s, or 0.5 s right after another repair. Its timer is too
// slow to do it in this test.
func TestWatchLatency(t *testing.T) {
	t.Parallel()
	const name = "10-flannel.conflist"
	n := newTestNode(t, name)
	list, program := filepath.Join(n.ConfDir, name), filepath.Join(n.BinDir, contract.PluginType)
	link := n.ConfDir + ".link" // as on a node set up by hand
	must(t, os.Symlink("net.d", link))
	real := n.ConfDir
	n.ConfDir = link
	cmd := n.command("install", "--preflight=false", "--listen", "127.0.0.1:0")
	cmd.Env = append(cmd.Env, envTimer+"=1h")
	s := n.serve(cmd)
	s.want("/readyz", 200)
	n.ConfDir = real
	for _, change := range []struct {
		name string
		make func()
	}{
		{"list rewritten", func() { n.WriteConf(name, n.Configs[name]) }},
		{"entry edited", func() { n.Edit(name, `"mode":"nat"`, `"mode":"tproxy"`) }},
		{"entry moved", func() {
			n.WriteConf(name, `{"name":"n","cniVersion":"1.0.0","plugins":[`+string(n.Entry)+`,{"type":"ptp"}]}`)
		}},
		{"program removed", func() { must(t, os.Remove(program)) }},
		{"program replaced", func() {
			must(t, os.WriteFile(program+".other", []byte("#!/bin/sh\n"), 0o755))
			must(t, os.Rename(program+".other", program))
		}},
		{"program's mode", func() { must(t, os.Chmod(program, 0o600)) }},
		{"directory made anew", func() {
			must(t, os.Rename(n.ConfDir, n.ConfDir+".old"))
			must(t, os.Mkdir(n.ConfDir, 0o755))
			n.WriteConf(name, n.Configs[name])
		}},
		{"..data", func() { n.BehindData() }}, // moving the correct list needs no repair
		{"..data rewritten", func() { n.WriteConf(name, n.Configs[name]) }},
		{"..data swapped", func() {
			must(t, os.Mkdir(filepath.Join(n.ConfDir, "..v2"), 0o755))
			must(t, os.WriteFile(filepath.Join(n.ConfDir, "..v2", name), []byte(n.Configs[name]), 0o600))
			must(t, os.Symlink("..v2", filepath.Join(n.ConfDir, "..tmp")))
			must(t, os.Rename(filepath.Join(n.ConfDir, "..tmp"), filepath.Join(n.ConfDir, "..data")))
		}},
		{"..data rewritten after the swap", func() { n.WriteConf(name, n.Configs[name]) }},
		{"directory behind another link", func() {
			must(t, os.Mkdir(n.ConfDir+".2", 0o755))
			n.ConfDir += ".2"
			list = filepath.Join(n.ConfDir, name)
			n.WriteConf(name, n.Configs[name])
			must(t, os.Symlink(filepath.Base(n.ConfDir), link+".new"))
			must(t, os.Rename(link+".new", link))
		}},
		{"and rewritten there", func() { n.WriteConf(name, n.Configs[name]) }},
	} {
		change.make()
		start := time.Now()
		lab.Eventually(t, change.name, func() error {
			data, err := os.ReadFile(list)
			if err != nil {
				return err
			}
			l, err := conflist.Parse(data)
			if err != nil || l.Check(n.Entry) != conflist.None {
				return fmt.Errorf("%v\n%s", err, data)
			}
			return n.CheckProgram()
		})
		t.Logf("%s: repaired after %v", change.name, time.Since(start).Round(time.Millisecond))
	}
	s.stop()
}
