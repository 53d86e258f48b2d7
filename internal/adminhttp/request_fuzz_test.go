package adminhttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// FuzzRequest: whatever comes to the admin port, the answer is one HTTP response or
// none, and the next client is served.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /short HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD /long HTTP/1.0\r\n\r\n", "GET /panic HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /short HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"GET http://[::1%25lo]/short HTTP/1.1\r\nHost:\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /short\n\n", "\r\n\r\n", "\x16\x03\x01",
		"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", strings.Repeat("A", 2*requestBytes),
	} {
		f.Add([]byte(s))
	}
	url, _ := start(f)
	address := strings.TrimPrefix(url, "http://")
	f.Fuzz(func(t *testing.T, request []byte) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(request); err == nil {
			_ = c.(*net.TCPConn).CloseWrite()
		}
		got, _ := io.ReadAll(c) // with a reset if bytes were left unread
		if len(got) > 0 {
			method, _, _ := strings.Cut(string(request), " ")
			r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(got))), &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%.200q: %v", got, err)
			}
			if r.StatusCode < 200 || r.StatusCode > 599 {
				t.Errorf("status %d", r.StatusCode)
			}
		}
		next, err := http.Get(url + "/short")
		if err != nil {
			t.Fatal(err)
		}
		next.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	})
}

// FuzzHost: only a name that every browser takes for this machine passes.
func FuzzHost(f *testing.F) {
	for _, host := range []string{"localhost", "LOCALHOST:5001", "127.0.0.1", "[::1]:5001", "[::ffff:127.0.0.2]", "localhost.evil.example", "evil@localhost", "127.1", "localhost\x00", "[::1%25lo]:1", ""} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if !isLoopbackName(host) {
			return
		}
		name := host
		if h, _, err := net.SplitHostPort(host); err == nil {
			name = h
		}
		name = strings.Trim(name, "[]")
		if name, _, _ = strings.Cut(name, "%"); !strings.EqualFold(strings.TrimSuffix(name, ":"), "localhost") {
			if ip := net.ParseIP(strings.TrimSuffix(name, ":")); ip == nil || !ip.IsLoopback() {
				t.Errorf("%q passes", host)
			}
		}
	})
}
