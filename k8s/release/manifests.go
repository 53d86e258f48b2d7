package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// actions are the folders below k8s that hold one kustomization for each distribution.
var actions = []string{"install", "repair", "uninstall"}

// manifests writes one file for each action and distribution, and the files of
// k8s itself, all with the released images' names; and what monitoring takes.
func (r release) manifests() error {
	k8s := filepath.Join(r.source, "k8s")
	for _, action := range actions {
		dirs, err := filepath.Glob(filepath.Join(k8s, action, "*", "kustomization.yaml"))
		if err != nil {
			return err
		}
		for _, d := range dirs {
			distribution := filepath.Base(filepath.Dir(d))
			if distribution == "base" || distribution == "component" {
				continue
			}
			head := fmt.Sprintf("# tproxy-cni %s: %s, %s\n", r.version, action, distribution)
			if err := r.writeKustomized(filepath.Dir(d), action+"-"+distribution+".yaml", head); err != nil {
				return err
			}
		}
	}
	if err := r.writeKustomized(filepath.Join(k8s, "chart/monitoring"), "monitoring.yaml", fmt.Sprintf("# tproxy-cni %s: monitoring\n", r.version)); err != nil {
		return err
	}
	for _, name := range []string{"rules.yaml", "dashboard.json"} {
		text, err := os.ReadFile(filepath.Join(k8s, "chart/monitoring", name))
		if err != nil {
			return err
		}
		if err := r.write(name, text); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(k8s, "*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := r.writeManifest(filepath.Base(f), string(text)); err != nil {
			return err
		}
	}
	return nil
}

// writeKustomized writes what a kustomization makes, below a first line.
func (r release) writeKustomized(dir, name, head string) error {
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return err
	}
	text, err := m.AsYaml()
	if err != nil {
		return err
	}
	return r.writeManifest(name, head+string(text))
}

func (r release) writeManifest(name, text string) error {
	text, err := r.pin(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return r.write(name, []byte(text))
}

// latest is an image of ours as the sources name it.
var latest = regexp.MustCompile(`\b(` + strings.Join(images, "|") + `):latest\b`)

// pin replaces our images' names by the released ones. It works on text, which keeps
// the comments.
func (r release) pin(text string) (string, error) {
	if strings.Contains(latest.ReplaceAllString(text, ""), ":latest") {
		return "", fmt.Errorf("names another image by the tag latest")
	}
	return latest.ReplaceAllStringFunc(text, func(s string) string { return r.image(strings.TrimSuffix(s, ":latest")) }), nil
}

// chart writes the chart as `helm package` would, but with fixed times.
func (r release) chart() error {
	entries, err := tree(filepath.Join(r.source, "k8s/chart"), "tproxy-cni")
	if err != nil {
		return err
	}
	version := strings.TrimPrefix(r.version, "v")
	for i, e := range entries {
		text := string(e.content)
		switch e.name {
		case "tproxy-cni/Chart.yaml":
			text, err = replaceLine(text, "version", version)
			if err == nil {
				text, err = replaceLine(text, "appVersion", r.version)
			}
		case "tproxy-cni/values.yaml":
			text, err = replaceLine(text, "image", r.image("tproxy-cni"))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		entries[i].content = []byte(text)
	}
	return r.writeArchive("tproxy-cni-"+version+".tgz", entries)
}

// replaceLine sets the one top-level key of a YAML text and keeps its comments.
func replaceLine(text, key, value string) (string, error) {
	line := regexp.MustCompile(`(?m)^` + key + `: .*$`)
	if n := len(line.FindAllString(text, -1)); n != 1 {
		return "", fmt.Errorf("%d lines of %s, want 1", n, key)
	}
	return line.ReplaceAllLiteralString(text, key+": "+value), nil
}
