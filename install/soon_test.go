package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestSoon: the installer hears of every change. It usually takes 0.06 s, after
// another patch 0.5 s; the bound is less than the timer's interval, so that the
// timer cannot do it in place of what the kernel tells: each change comes right
// after a repair, and so after a look.
func TestSoon(t *testing.T) {
	t.Parallel()
	const name = "10-flannel.conflist"
	n := newTestNode(t, name)
	list, program := filepath.Join(n.confDir, name), filepath.Join(n.binDir, contract.PluginType)
	link := n.confDir + ".link" // as somebody may have it who runs it by hand
	must(t, os.Symlink("net.d", link))
	real := n.confDir
	n.confDir = link
	s := n.start("install", "--preflight=false")
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
		{"program written", func() { must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755)) }},
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
		soon(t, change.name, func() error {
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

// soon is lab.Eventually with a bound of half the timer's interval.
func soon(t *testing.T, what string, check func() error) {
	t.Helper()
	start := time.Now()
	for {
		err := check()
		took := time.Since(start)
		switch {
		case err == nil:
			t.Logf("%s: repaired after %v", what, took.Round(time.Millisecond))
			return
		case took > recheck/2:
			t.Fatalf("%s: %v", what, strings.TrimSpace(err.Error()))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
