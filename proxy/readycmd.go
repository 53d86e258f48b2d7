package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// readyPause is between two questions of the command ready.
const readyPause = 20 * time.Millisecond

// runReady is the command ready: /readyz for a probe that runs a program, because the
// kubelet shows what a program prints, and of an HTTP answer only the status.
func runReady(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	var admin netip.AddrPort
	var wait time.Duration
	s := flags.New("TPROXY_", "tproxy-proxy ready ends with status 0 once the sidecar of this pod is ready, "+
		"else with 1, the reason and what to do.")
	addSidecar(s, &admin)
	s.Add("wait", "1s", "`time` to ask again, before it gives up", flags.Time(&wait))
	switch err := s.Parse(args, getenv, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "tproxy-proxy ready: %v\n", err)
		return 2
	}
	for end := time.Now().Add(wait); ; time.Sleep(readyPause) {
		var status int
		var body []byte
		err := eachSidecar(admin, getenv, func(a netip.AddrPort) (err error) {
			status, body, err = askAny(a, http.MethodGet, "/readyz")
			return err
		})
		if err != nil {
			body = []byte(err.Error())
		}
		// One line, as events are shown.
		text := printable.Line(strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; "))
		switch {
		case err == nil && status == http.StatusOK:
			fmt.Fprintln(stdout, text)
			return 0
		case time.Now().Before(end):
			continue
		}
		fmt.Fprintln(stderr, text)
		return 1
	}
}
