package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/bench/figures"
	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// sample is one value of one round: a line of results.json.
type sample struct {
	Round   int     `json:"round"`
	Family  string  `json:"family"`
	Variant string  `json:"variant"`
	Metric  string  `json:"metric"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit"`
}

// environment is the first line of results.json.
type environment struct {
	Date time.Time `json:"date"`
	results.Machine
	Go       string        `json:"go"`
	HAProxy  string        `json:"haproxy"`
	Nginx    string        `json:"nginx"`
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration"`
	Idle     int           `json:"idle"`
}

// machine says in one line when and on what machine the run was.
func (e environment) machine() string {
	return e.On(e.Date) + ", " + e.Go
}

// effort says in one line how much was measured.
func (e environment) effort() string {
	return fmt.Sprintf("Medians of %d rounds of %v each", e.Rounds, e.Duration)
}

// interval says what ± is.
func (e environment) interval() string {
	if e.Rounds < figures.Enough {
		return fmt.Sprintf("Fewer than %d rounds give no confidence intervals", figures.Enough)
	}
	return fmt.Sprintf("± is the %.0f %% confidence interval of the median", figures.Confidence*100)
}

// bench is one run of the benchmark.
type bench struct {
	options
	t        lab.TB
	sites    []*site
	results  *json.Encoder
	samples  []sample
	failures []string
}

// openRate is the open loop's rate: half of what the slowest variant could do
// in the closed loop of the first round, and the same for all from then on.
func (b *bench) openRate() (float64, error) {
	if b.rate > 0 {
		return b.rate, nil
	}
	for _, x := range b.samples {
		if half := x.Value * 1e3 / 2; x.Metric == "rr64" && (b.rate == 0 || half < b.rate) {
			b.rate = half
		}
	}
	if b.rate == 0 {
		return 0, errors.New("no rate for the open loop: measure rr64, too, or give --rate")
	}
	return b.rate, nil
}
