package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMakeFuzz: make fuzz ends at a target that fails, and not at one whose time is up.
func TestMakeFuzz(t *testing.T) {
	for _, tt := range []struct {
		name, prints string
		status       string
		fails        bool
	}{
		{"passes", `PASS\nok  \tx\t1s\n`, "0", false},
		{"a bare deadline", `--- FAIL: FuzzX (2.03s)\n    context deadline exceeded\nFAIL\nexit status 1\n`, "1", false},
		{"a failing input", `--- FAIL: FuzzX (0.03s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:1: context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n`, "1", true},
		{"another error", `--- FAIL: FuzzX (0.03s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n`, "1", true},
		{"does not build", `FAIL\tx [build failed]\n`, "1", true},
	} {
		dir := t.TempDir()
		script := "#!/bin/sh\n[ \"$1\" = test ] || exit 0\nprintf '%b' '" + tt.prints + "'\nexit " + tt.status + "\n"
		if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("make", "-s", "-C", "../..", "fuzz", "FUZZTIME=1s")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if (err != nil) != tt.fails {
			t.Errorf("%s: %v\n%s", tt.name, err, out)
		}
		if n := strings.Count(string(out), "Fuzz"); !tt.fails && n < 10 {
			t.Errorf("%s: went through %d targets only\n%s", tt.name, n, out)
		}
	}
}
