package figures

import (
	"bytes"
	"testing"

	"golang.org/x/perf/benchfmt"
)

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		text   string
		ratio  string
	}{
		{nil, "", ""},
		{[]float64{12.34}, "12.3", "12.34×"},
		{[]float64{1, 3}, "2.00", "2.00×"}, // the median of two
		{[]float64{5, 1, 2, 3, 4}, "3.00", "3.00×"},
		// Six are enough: the interval is from the least to the greatest.
		{[]float64{100, 98, 102, 101, 99, 110}, "100 ±9%", "100.50× ±9%"},
		{[]float64{100, 98, 102, 101, 99, 50}, "99.5 ±50%", "99.50× ±50%"},
		{[]float64{0, 0, 0, 0, 0, 0}, "0.00 ±0%", "0.00× ±0%"},
	} {
		f := Of(tt.values)
		if f.String() != tt.text || f.Ratio() != tt.ratio || f.Samples != len(tt.values) {
			t.Errorf("%v: %q and %q of %d, want %q and %q", tt.values, f, f.Ratio(), f.Samples, tt.text, tt.ratio)
		}
	}
}

// With eleven samples one that is far off does not reach the interval.
func TestOutlier(t *testing.T) {
	f := Of([]float64{100, 101, 99, 102, 98, 100, 101, 99, 100, 100, 1000})
	if f.Center != 100 || f.Lo != 99 || f.Hi != 101 && f.Hi != 102 || f.Confidence < Confidence {
		t.Errorf("%+v", f)
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{1234.5: "1234", 12.34: "12.3", 1.234: "1.23", -99.95: "-100.0", 0: "0.00"} {
		if got := Number(x); got != want {
			t.Errorf("%v: %q, want %q", x, got, want)
		}
	}
}

// What is written is what benchstat reads.
func TestBenchstat(t *testing.T) {
	var b bytes.Buffer
	if err := NewBenchstat(&b).Write("ADD/nat", Value{Value: 1500, Unit: "ns/op"}, Value{Value: 0.25, Unit: "k/s"}); err != nil {
		t.Fatal(err)
	}
	if want := "BenchmarkADD/nat 1 1500 ns/op 0.25 k/s\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	r := benchfmt.NewReader(&b, "test")
	if !r.Scan() {
		t.Fatal("nothing to read", r.Err())
	}
	got, ok := r.Result().(*benchfmt.Result)
	if !ok || got.Name.String() != "ADD/nat" {
		t.Errorf("%+v", r.Result())
	}
}
