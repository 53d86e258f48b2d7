// Package version tells which build a program is.
package version

import (
	"runtime"
	"runtime/debug"
)

// Version is set by the linker:
//
//	-ldflags "-X github.com/tproxy-cni/tproxy-cni/internal/version.Version=v1.2.3"
//
// Empty means that nobody set it, as in `go build` and `go install`.
var Version string

// String is what `--version` prints after the program's name: the version, the
// commit where the build knows it, and the Go release.
func String() string {
	v, commit := Version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = " " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "dev"
	}
	return v + commit + " " + runtime.Version()
}
