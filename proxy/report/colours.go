package report

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The colours, as ANSI's SGR parameters.
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// Colours reports whether they help: on a terminal, unless NO_COLOR is set
// (no-color.org).
func Colours(to io.Writer, getenv func(string) string) bool {
	f, ok := to.(*os.File)
	if !ok || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
