package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/ranges"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

// frontConfig is the unix socket for other proxies of the pod.
type frontConfig struct {
	path string // ""; none
	uid  int    // who may use it besides the sidecar's user; 0: nobody
	to   uint16 // the application's port; 0: the header's
}

// mode is the socket file's: for the sidecar's user or, if another may use it, for
// their common group.
func (f frontConfig) mode() fs.FileMode {
	if f.uid == 0 {
		return 0o600
	}
	return 0o660
}

// addHeaders adds the flags of the PROXY protocol.
func addHeaders(s *flags.Set, c *config) {
	s.Add("proxy-protocol-from", "", "`CIDRs` of load balancers whose connections begin with a PROXY header, and are shown with the client that it names; others' are relayed as they are",
		flags.CIDRs(&c.trusted.from))
	s.Add("proxy-protocol-ports", "", "original destination `ports` of these connections, such as 80,8000-8099; all if empty", flags.Ports(&c.trusted.ports))
	s.Add("accept-proxy", "", "`unix:PATH` of a socket for another proxy of the pod, which sends a PROXY header first", unixPath(&c.front.path))
	s.Add("accept-proxy-uid", "", "`uid` of that proxy, if it is not the sidecar's own; the socket is its group's then, too", flags.Number(&c.front.uid, 1, math.MaxUint32-1))
	s.Add("accept-proxy-to", "", "the application's `port`, if it is not the one in the header", func(text string) (err error) {
		var problem string
		if c.front.to, problem = ranges.ParsePort(text); problem != "" {
			err = errors.New("want a port of 1-65535")
		}
		return err
	})
}

// checkHeaders finds flags that do nothing without another.
func (c *config) checkHeaders() (err error) {
	if len(c.trusted.ports) > 0 && len(c.trusted.from) == 0 {
		err = errors.Join(err, errors.New("--proxy-protocol-ports does nothing without --proxy-protocol-from"))
	}
	if c.front.path == "" && (c.front.uid != 0 || c.front.to != 0) {
		err = errors.Join(err, errors.New("--accept-proxy-uid and --accept-proxy-to do nothing without --accept-proxy"))
	}
	return err
}

// unixPath takes unix:PATH. An abstract socket has no mode: any process of the pod could
// connect.
func unixPath(to *string) func(string) error {
	return func(text string) error {
		path, ok := strings.CutPrefix(text, "unix:")
		if !ok || !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path) > sock.MaxUnixPath || strings.ContainsRune(path, 0) {
			return fmt.Errorf("want unix: and an absolute path of at most %d bytes, such as unix:/run/tproxy/front.sock", sock.MaxUnixPath)
		}
		*to = path
		return nil
	}
}
