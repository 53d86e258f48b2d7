package report

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestColours: a terminal gets colours unless the environment says otherwise; a pipe
// and a file get none.
func TestColours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	_, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		to          *os.File
		name, value string
		want        bool
	}{
		{terminal, "TERM", "xterm", true},
		{terminal, "", "", true},
		{terminal, "NO_COLOR", "1", false},
		{terminal, "TERM", "dumb", false},
		{pipe, "TERM", "xterm", false},
		{file, "TERM", "xterm", false},
	} {
		getenv := func(name string) string {
			if name == tt.name {
				return tt.value
			}
			return ""
		}
		if got := Colours(tt.to, getenv); got != tt.want {
			t.Errorf("%s with %s=%s: %v, want %v", tt.to.Name(), tt.name, tt.value, got, tt.want)
		}
	}
}
