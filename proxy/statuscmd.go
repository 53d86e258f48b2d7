package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/proxy/report"
)

// runStatus is the command status. Its exit status is 0 if the sidecar answers, ready
// or not.
func runStatus(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	fail := func(status int, err error) int {
		fmt.Fprintf(stderr, "tproxy-proxy status: %v\n", err)
		return status
	}
	var admin netip.AddrPort
	var order, format string
	s := flags.New("TPROXY_", "tproxy-proxy status shows what the sidecar of this pod does. It needs no privilege.")
	addSidecar(s, &admin)
	s.Add("sort", report.ByBytes, "which connections to list first: those with the most `bytes|age`", flags.OneOf(&order, report.ByBytes, report.ByAge))
	s.Add("o", "text", "output, `text|json`", flags.OneOf(&format, "text", "json"))
	switch err := s.Parse(args, getenv, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return fail(2, err)
	}
	raw, err := askSidecar(admin, getenv, http.MethodGet, "/status?sort="+order)
	if err != nil {
		return fail(1, err)
	}
	var d report.Document
	if err := json.Unmarshal(raw, &d); err != nil || d.Mode == "" {
		return fail(1, fmt.Errorf("what answers is not the sidecar: it says %s", printable.Quote(string(raw))))
	}
	if format == "text" {
		d.Text(stdout, report.Colours(stdout, getenv))
		return 0
	}
	text, err := report.Indent(raw)
	if err == nil {
		_, err = io.WriteString(stdout, text)
	}
	if err != nil {
		return fail(1, err)
	}
	return 0
}
