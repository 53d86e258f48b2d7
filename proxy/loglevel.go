package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/flags"
)

// runLogLevel is the command log-level.
func runLogLevel(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	fail := func(status int, err error) int {
		fmt.Fprintf(stderr, "tproxy-proxy log-level: %v\n", err)
		return status
	}
	var admin netip.AddrPort
	s := flags.New("TPROXY_", "tproxy-proxy log-level [debug|info|warn|error] changes what the sidecar of this pod logs, "+
		"until it ends; without a level it prints the one that holds.")
	addSidecar(s, &admin)
	method, path := http.MethodGet, "/log-level"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		var level slog.Level
		if err := flags.Level(&level)(args[0]); err != nil {
			return fail(2, fmt.Errorf("%q: %w", args[0], err))
		}
		method, path = http.MethodPut, path+"?level="+url.QueryEscape(args[0])
		args = args[1:]
	}
	switch err := s.Parse(args, getenv, stdout); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return fail(2, err)
	}
	body, err := askSidecar(admin, getenv, method, path)
	if err != nil {
		return fail(1, err)
	}
	if method == http.MethodGet {
		_, _ = stdout.Write(body)
	}
	return 0
}

// logLevel answers that command:
//
//	GET /log-level              the level
//	PUT /log-level?level=LEVEL  changes it
func logLevel(log *slog.Logger, level *slog.LevelVar) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet:
			fmt.Fprintln(w, strings.ToLower(level.Level().String()))
		case http.MethodPut:
			var to slog.Level
			if err := flags.Level(&to)(r.URL.Query().Get("level")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if from := level.Level(); from != to {
				level.Set(min(from, to)) // the line below is for whoever reads at either level
				log.Warn("log level changed", "from", from.String(), "to", to.String())
				level.Set(to)
			}
			fmt.Fprintln(w, "done")
		default:
			http.Error(w, "want GET or PUT", http.StatusMethodNotAllowed)
		}
	})
}
