package traffic

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain gives each loop a processor: their system calls do not let go of one.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(16)
	m.Run()
}

// TestBreaks: behind a relay that turns every reset into a regular end, the kinds that
// reset fail, by the client or by the application.
func TestBreaks(t *testing.T) {
	for _, tt := range []struct {
		kind string
		want string // in the error of the client, or of the application
	}{
		{ServerResets, "end"},
		{ClientResets, errEarly.Error()},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			target, faults := serveHere(t)
			client := make(chan error, 1)
			s := Spec{Kind: tt.kind, Target: polite(t, target), Conns: 5, Ports: portCount, Duration: 50 * time.Millisecond, Sources: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
			go func() {
				if _, err := Run(s, nil); err != nil {
					client <- err
				}
			}()
			var err error
			select {
			case err = <-faults:
			case err = <-client:
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

// polite is a relay that ends every connection regularly.
func polite(t *testing.T, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to.String())
			if err != nil {
				a.Close()
				return
			}
			for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
				go func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].(*net.TCPConn).CloseWrite()
				}()
			}
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}
