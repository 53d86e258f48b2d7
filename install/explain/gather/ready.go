package gather

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/install/explain"
)

const (
	readyTimeout = 2 * time.Second // for all that is asked
	readyMost    = 64 << 10        // bytes of an answer that are read
)

// ready asks the sidecar's health port, which is never intercepted, where the sidecar's
// user alone listens: what another process of the pod says there is not the sidecar's
// word, and the report shows that to root. Without an answer it does without.
func (g gatherer) ready(ctx context.Context) {
	if !g.Sidecars(g.Config.AdminPort) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, a := range g.Addrs {
		at := netip.AddrPortFrom(a, g.Config.AdminPort).String()
		code, text := get(ctx, "http://"+at+"/readyz")
		said, is := withoutWord(text)
		if !is || code != http.StatusOK && code != http.StatusServiceUnavailable {
			continue
		}
		said, cure, _ := strings.Cut(said, "\nwhat to do: ")
		g.Ready = &explain.Ready{OK: code == http.StatusOK, Text: said, Cure: cure}
		_, text = get(ctx, "http://"+at+"/metrics")
		if m := buildInfo.FindStringSubmatch(text); m != nil {
			g.Ready.Version = m[1]
		}
		return
	}
}

// buildInfo is the sidecar's version in its metrics, where it has some.
var buildInfo = regexp.MustCompile(`(?m)^tproxy_proxy_build_info\{[^}]*\bversion="([^"]*)"`)

// get is status and body of an answer; 0 without one.
func get(ctx context.Context, url string) (code int, text string) {
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy of the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, ""
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, readyMost))
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(body)
}

// withoutWord takes away the word with which an answer of the sidecar begins; is says
// whether it does.
func withoutWord(text string) (rest string, is bool) {
	text = strings.TrimSpace(text)
	for _, word := range []string{"not ready: ", "ready: "} {
		if rest, is = strings.CutPrefix(text, word); is {
			return rest, true
		}
	}
	return "", false
}
