package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// installByHand puts the plugin on every node without the installer.
func installByHand() error {
	d, err := theDistro()
	if err != nil {
		return err
	}
	plugin, err := filepath.Abs("../../bin/tproxy-cni")
	if err != nil {
		return err
	}
	for n := 1; n <= nodes; n++ {
		nx := func(stdin string, args ...string) (string, error) {
			cmd := exec.Command(binDir+"/cluster", append([]string{"nx", fmt.Sprint(n)}, args...)...)
			cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), os.Stderr
			out, err := cmd.Output()
			return string(out), err
		}
		if _, err := nx("", "cp", plugin, d.binDir+"/tproxy-cni"); err != nil {
			return err
		}
		path := filepath.Join(d.confDir, d.list)
		text, err := nx("", "cat", path)
		if err != nil {
			return err
		}
		var list map[string]any
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return err
		}
		if strings.Contains(text, "tproxy-cni") {
			continue
		}
		list["plugins"] = append(list["plugins"].([]any), map[string]any{
			"type":         "tproxy-cni",
			"capabilities": map[string]bool{"io.kubernetes.cri.pod-annotations": true},
		})
		out, _ := json.MarshalIndent(list, "", "  ")
		if _, err := nx(string(out), "sh", "-c", "cat > "+path+".new && mv "+path+".new "+path); err != nil {
			return err
		}
	}
	return nil
}
