package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/proxy/sock"
)

const (
	askTime    = 5 * time.Second
	answerSize = 4 << 20 // bytes at most
)

// ask is a command's request to the sidecar of its pod, whose admin port is admin. It
// comes from a loopback address, as adminhttp.FromLoopback wants it. The body is that
// of status 200; the error of any other has its first line.
func ask(admin netip.AddrPort, method, path string) (body []byte, err error) {
	status, body, err := askAny(admin, method, path)
	if err == nil && status != http.StatusOK {
		line, _, _ := strings.Cut(string(body), "\n")
		err = fmt.Errorf("the sidecar answers %d: %s", status, printable.Line(line))
	}
	return body, err
}

// askAny is ask with the answer of any status.
func askAny(admin netip.AddrPort, method, path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	from := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	switch at := admin.Addr(); {
	case at.IsUnspecified():
		admin = netip.AddrPortFrom(from, admin.Port())
	case at.Is6():
		from = netip.IPv6Loopback()
	}
	conn, err := sock.Connect(ctx, netip.AddrPortFrom(from, 0), admin)
	if err != nil {
		err = fmt.Errorf("the sidecar does not answer on %s: %w", admin, err)
		if errors.Is(err, unix.ECONNREFUSED) {
			err = fmt.Errorf("%w: is it running, and does --admin (TPROXY_ADMIN) have its value?", err)
		}
		return 0, nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(askTime))
	r, err := http.NewRequestWithContext(ctx, method, "http://"+admin.String()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	r.Host = "localhost" // see adminhttp.NamedLoopback
	if err := r.Write(conn); err != nil {
		return 0, nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return 0, nil, fmt.Errorf("what answers on %s is not the sidecar: %s", admin, printable.Line(err.Error()))
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, answerSize))
	return answer.StatusCode, body, err
}
