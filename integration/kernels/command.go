package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// command runs a program and returns its stdout; the error has its stderr.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	var out, said strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, said.String())
	}
	return out.String(), nil
}
