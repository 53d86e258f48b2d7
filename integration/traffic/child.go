package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
)

// A program that makes traffic starts itself again, in a namespace, as the application
// and as each client:
//
//	PROGRAM serve PORT   the application
//	PROGRAM load SPEC    a client; prints a Result

// Holding is what an idle client prints when its connections are open. It closes them at
// the end of its input.
const Holding = "holding\n"

// Quietly is in the environment of serve and load: each is a single loop, whose
// waits the runtime's preemption signals would only interrupt.
const Quietly = "GODEBUG=asyncpreemptoff=1"

// Load is the command of a client, of the program self.
func Load(ctx context.Context, self string, s Spec) (*exec.Cmd, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "load", string(text))
	cmd.Env = append(os.Environ(), Quietly)
	return cmd, nil
}

// Child runs serve or load, if that is what the arguments say.
func Child(args []string) (ran bool, err error) {
	if len(args) == 2 {
		switch args[0] {
		case "serve":
			return true, serve(args[1])
		case "load":
			return true, load(args[1])
		}
	}
	return false, nil
}

// quiet turns the garbage collector off and leaves one thread to the loop.
func quiet() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(512 << 20)
}

func serve(port string) error {
	quiet()
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	return Serve(n, func() { fmt.Println("serving", port) })
}

func load(spec string) error {
	quiet()
	var s Spec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	r, err := Run(s, func() error {
		fmt.Print(Holding)
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
