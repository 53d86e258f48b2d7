// Package flags adds to package flag what the programs need beyond it: each flag
// has an environment variable, and all faults are found at once.
package flags

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Set is a program's flags.
type Set struct {
	fs            *flag.FlagSet // holds texts until all are known
	prefix, intro string
	all           []setting // in the order in which they are set
	arg           func(string) error
}

type setting struct {
	name, env string
	set       func(string) error
	given     *repeated // of a flag that may be repeated
}

// repeated is a flag.Value.
type repeated []string

func (l *repeated) String() string        { return "" }
func (l *repeated) Set(text string) error { *l = append(*l, text); return nil }

// New returns an empty Set. The environment variable of the flag log-level is
// prefix + "LOG_LEVEL"; one-letter flags have none. --help begins with intro.
func New(prefix, intro string) *Set {
	s := &Set{fs: flag.NewFlagSet("", flag.ContinueOnError), prefix: prefix, intro: intro}
	s.fs.SetOutput(io.Discard)
	return s
}

// Add adds a flag. set puts its text where it belongs, or returns what is wanted
// instead; it is not called for the default value "". Usage is package flag's.
func (s *Set) Add(name, value, usage string, set func(string) error) {
	s.fs.String(name, value, s.add(name, usage, set))
}

// Each adds a flag that may be repeated: set is called for each of its texts, or for
// value if there is none.
func (s *Set) Each(name, value, usage string, set func(string) error) {
	given := &repeated{}
	usage = s.add(name, usage+"; may be repeated", set)
	s.all[len(s.all)-1].given = given
	s.fs.Var(given, name, usage)
	s.fs.Lookup(name).DefValue = value
}

// Bool adds a flag that may be given without a value.
func (s *Set) Bool(to *bool, name string, value bool, usage string) {
	s.fs.Bool(name, value, s.add(name, usage, Boolean(to)))
}

// Arg takes one argument that is not a flag, before, between or behind the flags; set
// is not called without one.
func (s *Set) Arg(set func(string) error) { s.arg = set }

// Version adds the flag --version, which has no environment variable.
func (s *Set) Version(to *bool) { s.fs.BoolVar(to, "version", false, "print the version and exit") }

func (s *Set) add(name, usage string, set func(string) error) string {
	env := ""
	if len(name) > 1 {
		env = s.prefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		usage += " (" + env + ")"
	}
	s.all = append(s.all, setting{name, env, set, nil})
	return usage
}

// Parse sets every flag from args, else from its environment variable, else to its
// default. The error is flag.ErrHelp after --help, whose text goes to usage;
// otherwise it names every fault, except that an unknown flag hides the others.
func (s *Set) Parse(args []string, getenv func(string) string, usage io.Writer) error {
	if err := s.fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		s.fs.SetOutput(usage)
		fmt.Fprintln(usage, s.intro)
		s.fs.PrintDefaults()
		return err
	} else if err != nil {
		return errors.New(printable.Line(err.Error())) // it has the argument as it is
	}
	var faults []error
	if s.arg != nil && s.fs.NArg() > 0 {
		text, rest := s.fs.Arg(0), s.fs.Args()[1:]
		if err := s.arg(text); err != nil {
			faults = append(faults, fmt.Errorf("argument %s: %w", printable.Quote(text), err))
		}
		if err := s.fs.Parse(rest); err != nil {
			return errors.New(printable.Line(err.Error()))
		}
	}
	if s.fs.NArg() > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %s", printable.Quote(s.fs.Arg(0))))
	}
	given := map[string]bool{}
	s.fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, f := range s.all {
		name, text := "--"+f.name, s.fs.Lookup(f.name).Value.String()
		if f.given != nil {
			for _, text := range append(*f.given, s.fs.Lookup(f.name).DefValue)[:max(1, len(*f.given))] {
				if err := f.set(text); err != nil {
					faults = append(faults, fmt.Errorf("%s %s: %w", name, printable.Quote(text), err))
				}
			}
			continue
		}
		if !given[f.name] {
			if env := getenv(f.env); f.env != "" && env != "" && !serviceLink(f.env, env) {
				name, text = f.env, env
			} else if text == "" {
				continue
			}
		}
		if err := f.set(text); err != nil {
			faults = append(faults, fmt.Errorf("%s %s: %w", name, printable.Quote(text), err))
		}
	}
	return errors.Join(faults...)
}

// serviceLink reports whether a variable is one that Kubernetes sets: for a Service
// named tproxy-admin, the pods beside it get TPROXY_ADMIN_PORT=tcp://10.0.0.1:80.
func serviceLink(name, value string) bool {
	scheme, _, ok := strings.Cut(value, "://")
	return ok && strings.HasSuffix(name, "_PORT") && slices.Contains([]string{"tcp", "udp", "sctp"}, scheme)
}
