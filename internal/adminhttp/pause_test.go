package adminhttp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
)

// TestPause: whoever is being answered gets the answer, and others theirs after the pause.
func TestPause(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan bool), make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		asked <- true
		<-answer
		fmt.Fprint(w, "slow")
	})
	mux.HandleFunc("/fast", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fast") })
	s := New(slog.New(slog.DiscardHandler), ln.(*net.TCPListener), mux)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()

	get := func(path string) <-chan string {
		got := make(chan string, 1)
		go func() {
			resp, err := http.Get("http://" + ln.Addr().String() + path)
			if err != nil {
				got <- err.Error()
				return
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			got <- string(text)
		}()
		return got
	}
	slow := get("/slow")
	<-asked
	paused := make(chan bool)
	go func() { paused <- s.Pause(ctx) }()
	close(answer)
	if got := <-slow; got != "slow" {
		t.Errorf("the one who was being answered got %q", got)
	}
	if !<-paused {
		t.Error("no pause")
	}
	fast := get("/fast")
	select {
	case got := <-fast:
		t.Errorf("got %q in the pause", got)
	default:
	}
	s.Resume()
	if got := <-fast; got != "fast" {
		t.Errorf("got %q after the pause", got)
	}
	over, stop := context.WithCancel(ctx)
	stop()
	for range 100 { // at the end of ctx it depends on chance who is first
		if s.Pause(over) {
			s.Resume()
		}
	}
	if got := <-get("/fast"); got != "fast" {
		t.Errorf("got %q after a pause that was given up", got)
	}
	if !s.Pause(ctx) {
		t.Error("no pause after one that was given up")
	}
	s.Resume()
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s.Pause(ctx) {
		t.Error("a server that has ended pauses")
	}
}
