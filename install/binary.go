package main

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

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// binary is the plugin's program: where it comes from and where it goes.
type binary struct {
	source, dir string

	// Of the last time that all was right: nothing is read again while
	// neither file has changed.
	right     stamps
	supported []string
}

func (b *binary) path() string { return filepath.Join(b.dir, contract.PluginType) }

// stamp tells one state of a file from another without reading it.
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

func (b *binary) stamps() (s stamps, err error) {
	for i, path := range []string{b.source, b.path()} {
		if s[i], err = stampOf(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// put makes the node's binary the one beside ours, if it is not, and runs it.
// why says what was wrong, empty for nothing. A program that does not run, for
// instance because the node is of another architecture, never takes the place
// of one that does.
func (b *binary) put(ctx context.Context, d disk) (why string, err error) {
	now, err := b.stamps() // before we look, so that no later change passes for what we saw
	if err == nil && now == b.right {
		return "", nil
	}
	want, err := os.ReadFile(b.source)
	if err != nil {
		return "", fmt.Errorf("read the plugin to install: %w", err)
	}
	if why, err = b.differs(want); err != nil {
		return "", err
	}
	if why != "" {
		err := d.replace(b.path(), content{
			data: want, mode: 0o755, uid: os.Geteuid(), gid: os.Getegid(),
			ready: func(temp string) error { _, err := askVersion(ctx, temp); return err },
		})
		if err != nil {
			return "", err
		}
	}
	if b.supported, err = askVersion(ctx, b.path()); err != nil {
		return why, err
	}
	if b.right = now; why != "" {
		b.right = stamps{} // the next attempt looks at what is there now
	}
	return why, nil
}

func (b *binary) differs(want []byte) (why string, err error) {
	info, err := os.Lstat(b.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(b.dir); err != nil {
			return "", err
		}
		return "binary missing", nil
	case err != nil:
		return "", err
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory: remove it", b.path())
	case !info.Mode().IsRegular() || info.Mode().Perm() != 0o755:
		return "binary changed", nil
	}
	have, err := os.ReadFile(b.path())
	if err == nil && !bytes.Equal(have, want) {
		why = "binary changed"
	}
	return why, err
}

// askVersion runs the plugin as a runtime does and returns the CNI versions
// that it speaks.
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
			// A process that another thread just forked holds the file open
			// for writing until it executes its own program.
			wait(ctx, nil, time.Millisecond)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("run VERSION of %s: %w %s", path, err, strings.TrimSpace(stderr.String()+" "+string(out)))
		}
		break
	}
	var answer struct{ SupportedVersions []string }
	if err := json.Unmarshal(out, &answer); err != nil || len(answer.SupportedVersions) == 0 {
		return nil, fmt.Errorf("run VERSION of %s: no versions in its answer %q", path, out)
	}
	return answer.SupportedVersions, nil
}
