package adminhttp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// start serves a few kinds of answers, and returns where.
func start(t testing.TB) (url string, log *lab.Output) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /short", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "short") })
	mux.HandleFunc("GET /long", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, long) })
	mux.HandleFunc("GET /not", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not", http.StatusServiceUnavailable) })
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("at the disco") })
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error)
	log = &lab.Output{}
	go func() { done <- Serve(ctx, slog.New(slog.NewTextHandler(log, nil)), ln.(*net.TCPListener), mux) }()
	t.Cleanup(func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String(), log
}

// long is more than the kernel takes at once.
var long = strings.Repeat("0123456789abcde\n", 64<<10)

// TestAnswers: what curl gets, in each version that it speaks.
func TestAnswers(t *testing.T) {
	lab.Need(t, "curl")
	url, log := start(t)
	for _, tt := range []struct{ args, want string }{
		{"/short", "short\n 200 text/plain; charset=utf-8 6"},
		{"/short --http1.0", "short\n 200 text/plain; charset=utf-8 6"},
		{"/short --http2", "short\n 200 text/plain; charset=utf-8 6"}, // an offer that is left alone
		{"/short --head --output /dev/null", " 200 text/plain; charset=utf-8 0"},
		{"/not", "not\n 503 text/plain; charset=utf-8 4"},
		{"/none", "404 page not found\n 404 text/plain; charset=utf-8 19"},
		{"/short --data x", "Method Not Allowed\n 405 text/plain; charset=utf-8 19"},
		{"/short --header Expect:100-continue --data x", "Method Not Allowed\n 405 text/plain; charset=utf-8 19"},
		{"/panic", " 500 text/plain; charset=utf-8 0"},
		{"/long", long + fmt.Sprintf(" 200 text/plain; charset=utf-8 %d", len(long))},
		{"/short --header X:" + strings.Repeat("x", 9<<10), "malformed request, or longer than 8 kB\n 400 text/plain; charset=utf-8 39"},
		{"/short --header X:" + strings.Repeat("x", 7<<10), "short\n 200 text/plain; charset=utf-8 6"},
	} {
		args := append([]string{"-sS", "--max-time", "20", "-w", " %{http_code} %{content_type} %{size_download}"}, strings.Fields(url+tt.args)...)
		got, err := exec.Command("curl", args...).CombinedOutput()
		if err != nil || string(got) != tt.want {
			t.Errorf("%.80s: %v: got %.200q, want %.200q", tt.args, err, got, tt.want)
		}
	}
	if !strings.Contains(log.String(), "at the disco") {
		t.Errorf("the panic is not in the log: %s", log)
	}
}

// TestHalfClosed: a client that ends its side with its request has its answer, and
// an end in order.
func TestHalfClosed(t *testing.T) {
	url, _ := start(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /long HTTP/1.0\r\n\r\n")
	_ = conn.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(answer), long) {
		t.Errorf("%d bytes, %v", len(answer), err)
	}
}
