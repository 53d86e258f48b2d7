package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/traffic"
)

// holding is what an idle client prints when its connections are open.
const holding = "holding\n"

// quietly is in the environment of serve and load: each is a single loop, whose
// waits the runtime's preemption signals would only interrupt.
const quietly = "GODEBUG=asyncpreemptoff=1"

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
	return traffic.Serve(n, func() { fmt.Println("serving", port) })
}

func load(spec string) error {
	quiet()
	var s traffic.Spec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	r, err := traffic.Run(s, func() error {
		fmt.Print(holding)
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
