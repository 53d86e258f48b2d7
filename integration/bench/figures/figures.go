// Package figures turns the samples of a benchmark into medians with confidence
// intervals, and into a file for benchstat. The statistics are those of benchstat:
// golang.org/x/perf.
package figures

import (
	"fmt"
	"io"
	"math"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// Confidence is that of the intervals. Fewer than Enough samples give none.
const (
	Confidence = 0.95
	Enough     = 6
)

// Figure is the median of some samples. The zero value is that of none.
type Figure struct {
	benchmath.Summary
	Samples int
}

// Of is the median of values, about whose distribution nothing is assumed.
func Of(values []float64) Figure {
	if len(values) == 0 {
		return Figure{}
	}
	s := benchmath.NewSample(values, &benchmath.DefaultThresholds)
	return Figure{benchmath.AssumeNothing.Summary(s, Confidence), len(values)}
}

// Range is the confidence interval as " ±9%", its farther end from the median;
// empty where the samples are too few for one.
func (f Figure) Range() string {
	if f.Samples == 0 || math.IsInf(f.Lo, 0) || math.IsInf(f.Hi, 0) {
		return ""
	}
	return " ±" + f.PctRangeString()
}

// String has three digits that count and the confidence interval; empty where
// there are no samples.
func (f Figure) String() string {
	if f.Samples == 0 {
		return ""
	}
	return Number(f.Center) + f.Range()
}

// Ratio is the figure as a multiple: "1.65× ±3%".
func (f Figure) Ratio() string {
	if f.Samples == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f×", f.Center) + f.Range()
}

// Number has three digits that count.
func Number(x float64) string {
	switch {
	case x >= 100 || x <= -100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10 || x <= -10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// Value is one measurement in a unit such as "ns/op".
type Value = benchfmt.Value

// Benchstat writes samples as go test -bench would print them.
type Benchstat struct{ w *benchfmt.Writer }

// NewBenchstat returns a Benchstat that writes to w.
func NewBenchstat(w io.Writer) Benchstat { return Benchstat{benchfmt.NewWriter(w)} }

// Write writes one sample; name is what follows "Benchmark".
func (b Benchstat) Write(name string, values ...Value) error {
	return b.w.Write(&benchfmt.Result{Name: benchfmt.Name(name), Iters: 1, Values: values})
}
