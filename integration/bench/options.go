package main

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
)

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

// quick are the defaults of a quick run.
var quick = map[string]string{"rounds": "1", "duration": "200ms", "settle": "200ms", "idle": "1000"}

// forRules are the measurements that depend on the rules most.
const forRules = "^(correct|up16|rr1|rr64|conns)$"

func parseOptions(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "one short round, only to see that everything works")
	fs.BoolVar(&o.rules, "rules", false, "measure what each part of the rules costs, instead of the peers")
	fs.StringVar(&o.out, "out", "bench", "`directory` for results.json, benchstat.txt, table.md and the plots")
	fs.Func("proxy", "`[name=]path` of a tproxy-proxy; repeat the flag to compare several", func(s string) error {
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
	fs.IntVar(&o.rounds, "rounds", figures.Enough, "how many times everything is measured; fewer than 6 give no confidence intervals")
	fs.DurationVar(&o.duration, "duration", 1500*time.Millisecond, "duration of one measurement")
	fs.DurationVar(&o.settle, "settle", 3*time.Second, "time before the memory left by idle connections is read")
	fs.IntVar(&o.idle, "idle", 9200, "number of idle connections, all from one client; a proxy needs two descriptors for each")
	fs.Float64Var(&o.rate, "rate", 0, "requests/s of the open loop; 0: half of what the slowest variant reaches")
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
