package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// An image has one layer of this machine's files. A directory stands for all files
// in it.
type image struct {
	name  string            // with a tag that is not latest, or the kubelet asks a registry
	entry []string          //
	files map[string]string // path in the image → path here
}

// ownImages are the images of the tests' pods. Without arguments box waits, so it is
// also the pause container.
var ownImages = []image{
	{"test/box:1", []string{"/box"}, map[string]string{"/box": binDir + "/box"}},
	{"test/agnhost:1", []string{"/agnhost"}, map[string]string{"/agnhost": binDir + "/agnhost"}},
}

// load gives images and docker archives to every node.
func load(images []image, archives []string) error {
	dir := filepath.Join(runDir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, m := range images {
		archive := filepath.Join(dir, strings.NewReplacer("/", "-", ":", "-").Replace(m.name)+".tar")
		if err := m.write(archive); err != nil {
			return fmt.Errorf("image %s: %w", m.name, err)
		}
		archives = append(archives, archive)
	}
	for _, archive := range archives {
		for n := 1; n <= nodes; n++ {
			if err := importOn(n, archive); err != nil {
				return err
			}
		}
	}
	return nil
}

// importOn loads an archive on one node, by stdin: the node need not see the file.
func importOn(n int, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(binDir+"/cluster", "nx", fmt.Sprint(n), "ctr", "-n", "k8s.io", "images", "import", "--local", "-")
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s on node %d: %w: %s", archive, n, err, out)
	}
	return nil
}

// write writes the image as `docker save` would.
func (m image) write(archive string) error {
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	made := map[string]bool{"/": true}
	for _, d := range []string{"/tmp", "/run", "/var/tmp"} {
		if err := mkdir(tw, made, d, 0o1777); err != nil {
			return err
		}
	}
	for to, from := range m.files {
		err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return add(tw, made, path.Join(to, strings.TrimPrefix(p, from)), p)
		})
		if err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	diff := fmt.Sprintf("%x", sha256.Sum256(layer.Bytes()))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": m.entry},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diff}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{m.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	tw = tar.NewWriter(f)
	for name, text := range map[string][]byte{"config.json": config, "layer.tar": layer.Bytes(), "manifest.json": manifest} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := tw.Write(text); err != nil {
			return err
		}
	}
	return tw.Close()
}

// mkdir adds a directory and its parents.
func mkdir(tw *tar.Writer, made map[string]bool, dir string, mode int64) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := mkdir(tw, made, path.Dir(dir), 0o755); err != nil {
		return err
	}
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: mode})
}

// add adds one file, owned by root; symbolic links are followed.
func add(tw *tar.Writer, made map[string]bool, to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return mkdir(tw, made, to, int64(info.Mode().Perm()))
	}
	if err := mkdir(tw, made, path.Dir(to), 0o755); err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Name: to[1:], Mode: int64(info.Mode().Perm()), Size: info.Size()}); err != nil {
		return err
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

// withLibraries adds programs and the libraries that they are linked with to files.
func withLibraries(files map[string]string, programs ...string) (map[string]string, error) {
	for _, p := range programs {
		files[p] = p
		out, err := exec.Command("ldd", p).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", p, err)
		}
		for _, word := range strings.Fields(string(out)) {
			if strings.HasPrefix(word, "/") {
				files[word] = word
			}
		}
	}
	return files, nil
}
