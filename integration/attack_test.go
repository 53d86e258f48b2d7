package integration

import (
	"fmt"
	"os"
)

// attackArg is the first argument of a test binary that runs in a pod as the
// attacker of the guard's tests.
const attackArg = "attack"

// attackMain is the attacker's main.
func attackMain(args []string) {
	fmt.Fprintln(os.Stderr, "no such attack:", args)
	os.Exit(2)
}
