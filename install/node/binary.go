package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/disk"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Binary is the plugin's program: where it comes from and where it goes.
type Binary struct {
	Source string // the file to copy
	Dir    string // the node's directory of plugins

	// Set when the program was last verified: nothing is read again while
	// neither file has changed.
	verified  stamps
	supported []string // CNI versions
}

func (b *Binary) path() string { return filepath.Join(b.Dir, contract.PluginType) }

// stamp distinguishes two states of a file without reading it.
type stamp struct {
	dev, inode      uint64
	size            int64
	mode            uint32
	changed, edited syscall.Timespec
}

type stamps [2]stamp

func stampOf(path string) (s stamp, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{st.Dev, st.Ino, st.Size, st.Mode, st.Ctim, st.Mtim}, nil
}

func (b *Binary) stamps() (s stamps, err error) {
	for i, path := range []string{b.Source, b.path()} {
		if s[i], err = stampOf(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// inPlace reports whether the node's program equals the source, and runs. It
// reads nothing again while neither file has changed.
func (b *Binary) inPlace(ctx context.Context) bool {
	now, err := b.stamps() // before reading, so that a later change is noticed
	if err != nil {
		return false
	}
	if now == b.verified {
		return true
	}
	want, err := os.ReadFile(b.Source)
	if err != nil {
		return false
	}
	if why, err := b.differs(want); why != "" || err != nil {
		return false
	}
	supported, err := askVersion(ctx, b.path())
	if err != nil {
		return false
	}
	b.verified, b.supported = now, supported
	return true
}

// ensure copies the source to the node if the node's program differs, and runs
// it. why is the reason for the copy, empty if none was needed. A program that
// does not run, for instance because the node has another architecture, never
// replaces one that does. The error is one of the file system or of running it.
func (b *Binary) ensure(ctx context.Context, d disk.Disk) (why string, err error) {
	if b.inPlace(ctx) {
		return "", nil
	}
	want, err := os.ReadFile(b.Source)
	if err != nil {
		return "", fmt.Errorf("read the plugin to install: %w", err)
	}
	if why, err = b.differs(want); err != nil {
		return "", err
	}
	if why != "" {
		err := d.Replace(b.path(), disk.Content{
			Data: want, Mode: 0o755, UID: os.Geteuid(), GID: os.Getegid(),
			Ready: func(temp string) error { _, err := askVersion(ctx, temp); return err },
		})
		if err != nil {
			return "", err
		}
	}
	b.supported, err = askVersion(ctx, b.path())
	return why, err // the next attempt verifies what is there then
}

// differs returns why the node's program is not want, empty if it is.
func (b *Binary) differs(want []byte) (why string, err error) {
	info, err := os.Lstat(b.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(b.Dir); err != nil {
			return "", err
		}
		return "binary missing", nil
	case err != nil:
		return "", err
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory: remove it", b.path())
	case !info.Mode().IsRegular() || info.Mode().Perm() != 0o755:
		return "binary changed", nil
	case info.Size() != int64(len(want)): // do not read it, it may be large
		return "binary changed", nil
	}
	have, err := os.ReadFile(b.path())
	if err == nil && !bytes.Equal(have, want) {
		why = "binary changed"
	}
	return why, err
}

// askVersion runs the plugin at path with VERSION, as a runtime does, and returns
// the CNI versions it supports. It waits 10 s at most.
func askVersion(ctx context.Context, path string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var out []byte
	for {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, path)
		cmd.Env = []string{"CNI_COMMAND=VERSION"}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0"}`)
		cmd.Stderr = &stderr
		var err error
		out, err = cmd.Output()
		if errors.Is(err, syscall.ETXTBSY) && ctx.Err() == nil {
			// A process just forked by another thread holds the file open
			// for writing until it executes its own program.
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("run VERSION of %s: %w %s", path, err, strings.TrimSpace(stderr.String()+" "+string(out)))
		}
		break
	}
	var answer struct{ SupportedVersions []string }
	if err := json.Unmarshal(out, &answer); err != nil || len(answer.SupportedVersions) == 0 {
		return nil, fmt.Errorf("run VERSION of %s: no versions in its answer %s", path, printable.Quote(string(out)))
	}
	return answer.SupportedVersions, nil
}
