// Command bench measures tproxy-proxy against no proxy at all, HAProxy and
// nginx, in network namespaces on one machine. README.md says how to read it.
//
//	bench [flags]      the benchmark
//	bench serve PORT   the application in a pod
//	bench load SPEC    a client; prints a traffic.Result
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/traffic"
	"github.com/tproxy-cni/tproxy-cni/internal/lab"
)

// holding is what an idle client says when its connections are there.
const holding = "holding\n"

func main() {
	err := run(os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 2 {
		switch args[0] {
		case "serve":
			return serve(args[1])
		case "load":
			return load(args[1])
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return lab.Main(ctx, os.Stderr, func(t lab.TB) { story(t, o) })
}

// quietly is in the environment of serve and load: their loops are alone in
// their process, and the runtime's signals would only interrupt their waits.
const quietly = "GODEBUG=asyncpreemptoff=1"

// quiet keeps the runtime out of a loop's way.
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

// options are what the command line says.
type options struct {
	quick    bool
	rules    bool
	out      string // directory of the results
	proxies  []sidecar
	families []family
	variants *regexp.Regexp // by name
	measure  *regexp.Regexp // by name

	rounds   int
	duration time.Duration // of a measurement
	settle   time.Duration // before the memory after idle connections is read
	idle     int           // connections
	rate     float64       // requests/s of the open loop; 0: half of what the slowest variant can do
}

// quick are the presets of a quick run.
var quick = map[string]string{"rounds": "1", "duration": "200ms", "settle": "200ms", "idle": "1000"}

// forRules are the measurements that depend on the rules most.
const forRules = "^(correct|up16|rr1|rr64|conns)$"

func parseOptions(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "one short round; its figures only show that everything works")
	fs.BoolVar(&o.rules, "rules", false, "what each part of our rules costs, instead of the peers")
	fs.StringVar(&o.out, "out", "bench", "`directory` for results.json, benchstat.txt, table.md and the plots")
	fs.Func("proxy", "`[name=]path` of a tproxy-proxy; repeat it to compare several", func(s string) error {
		name, path, named := strings.Cut(s, "=")
		if !named {
			name, path = "", s
		}
		o.proxies = append(o.proxies, sidecar{name, path})
		_, err := os.Stat(path)
		return err
	})
	families := fs.String("families", "46", "`4, 6 or 46`")
	names := fs.String("variants", "", "`regexp` of the variants' names; all if empty")
	measure := fs.String("measure", "", "`regexp` of the measurements' names; if empty all, with --rules "+forRules)
	fs.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	fs.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "how long one measurement takes")
	fs.DurationVar(&o.settle, "settle", 3*time.Second, "how long memory may take to come back after connections")
	fs.IntVar(&o.idle, "idle", 9800, "idle connections; a proxy needs two descriptors for each")
	fs.Float64Var(&o.rate, "rate", 0, "requests/s of the open loop; 0: half of what the slowest variant can do")
	if err = fs.Parse(args); err != nil {
		return o, err
	}
	if o.quick {
		given := map[string]bool{}
		fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range quick {
			if !given[name] {
				_ = fs.Set(name, value)
			}
		}
	}
	if o.rules && *measure == "" {
		*measure = forRules
	}
	for _, f := range []family{v4, v6} {
		if strings.Contains(*families, f.name[len(f.name)-1:]) {
			o.families = append(o.families, f)
		}
	}
	var namesErr, measureErr error
	o.variants, namesErr = regexp.Compile(*names)
	o.measure, measureErr = regexp.Compile(*measure)
	return o, errors.Join(namesErr, measureErr)
}
