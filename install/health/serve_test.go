package health

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// wrote gives what is written to it.
type wrote chan string

func (w wrote) Write(b []byte) (int, error) {
	w <- string(bytes.Clone(b))
	return len(b), nil
}

// TestAddressLater: an address that the node does not have yet does not end the
// installer, whose other tasks keep the node right.
func TestAddressLater(t *testing.T) {
	// For documentation: no host has them.
	for _, addr := range []string{"203.0.113.1:17089", "[2001:db8::1]:17089"} {
		ctx, cancel := context.WithCancel(t.Context())
		log, done := make(wrote, 1), make(chan error, 1)
		go func() {
			done <- New(contract.ModeNone, contract.PacketGuardRequired).Serve(ctx, slog.New(slog.NewTextHandler(log, nil)), addr)
		}()
		select {
		case line := <-log:
			if !strings.Contains(line, "cannot assign requested address") || !strings.Contains(line, "again_in=5s") {
				t.Errorf("logged %s", line)
			}
		case err := <-done:
			t.Errorf("%s: ended with %v", addr, err)
			done <- nil
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: ended with %v", addr, err)
		}
	}
}
