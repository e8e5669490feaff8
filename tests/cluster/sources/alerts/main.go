// Command alerts tells when alerts fire, by Prometheus' own parser and engine.
//
// It reads {rules, series, minutes} from standard input: the text of a rules file, series in the notation of
// promtool's tests with one value a minute, and how long to look. It prints {problems, firing}: what Prometheus
// would not load, or by alert and minute the labels of what fires.
//
// promtool does the same and much more; building it takes six minutes of a core, because it brings every cloud's client.
package main

import (
	"context"
	"encoding/json"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

type question struct {
	Rules   string
	Series  map[string]string
	Minutes int
}

type answer struct {
	Problems []string                               `json:"problems"`
	Firing   map[string]map[int][]map[string]string `json:"firing"`
}

// sample is a value at a time in milliseconds.
type sample struct {
	time  int64
	value float64
}

func (s sample) T() int64                      { return s.time }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// found is the result of a selection.
type found struct {
	series []storage.Series
	place  int
}

func (f *found) Next() bool                        { f.place++; return f.place <= len(f.series) }
func (f *found) At() storage.Series                { return f.series[f.place-1] }
func (f *found) Err() error                        { return nil }
func (f *found) Warnings() annotations.Annotations { return nil }

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		log.Fatal(err)
	}
	language := parser.NewParser(parser.Options{})
	groups, problems := rulefmt.Parse([]byte(asked.Rules), false, model.UTF8Validation, language, slog.Default())
	told := answer{Problems: []string{}, Firing: map[string]map[int][]map[string]string{}}
	for _, problem := range problems {
		told.Problems = append(told.Problems, problem.Error())
	}
	if len(problems) == 0 {
		world := worldOf(asked.Series, language)
		engine := promql.NewEngine(promql.EngineOpts{
			MaxSamples: 1_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: language,
		})
		for _, group := range groups.Groups {
			for _, rule := range group.Rules {
				told.Firing[rule.Alert] = firing(engine, world, rule, asked.Minutes)
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		log.Fatal(err)
	}
}

// worldOf makes series queryable.
func worldOf(written map[string]string, language parser.Parser) storage.Queryable {
	var series []storage.Series
	for name, values := range written {
		described, sequence, err := language.ParseSeriesDesc(name + " " + values)
		if err != nil {
			log.Fatalf("%s %s: %v", name, values, err)
		}
		var samples []chunks.Sample
		for minute, each := range sequence {
			if !each.Omitted {
				samples = append(samples, sample{int64(minute) * 60_000, each.Value})
			}
		}
		series = append(series, storage.NewListSeries(described, samples))
	}
	return &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			selected := &found{}
			for _, each := range series {
				if matches(each.Labels(), matchers) {
					selected.series = append(selected.series, each)
				}
			}
			return selected
		},
	}}
}

func matches(known labels.Labels, matchers []*labels.Matcher) bool {
	for _, matcher := range matchers {
		if !matcher.Matches(known.Get(matcher.Name)) {
			return false
		}
	}
	return true
}

// firing is what of an alert has held for long enough, by minute.
func firing(
	engine *promql.Engine, world storage.Queryable, rule rulefmt.Rule, minutes int,
) map[int][]map[string]string {
	since := map[string]int{}
	fires := map[int][]map[string]string{}
	for minute := 0; minute <= minutes; minute++ {
		query, err := engine.NewInstantQuery(context.Background(), world, nil, rule.Expr, time.Unix(int64(minute)*60, 0))
		if err != nil {
			log.Fatalf("%s: %v", rule.Alert, err)
		}
		vector, err := query.Exec(context.Background()).Vector()
		if err != nil {
			log.Fatalf("%s at minute %d: %v", rule.Alert, minute, err)
		}
		held := map[string]int{}
		for _, each := range vector {
			shown := labels.NewBuilder(each.Metric).Del(labels.MetricName).Labels()
			begin, known := since[shown.String()]
			if !known {
				begin = minute
			}
			held[shown.String()] = begin
			if time.Duration(minute-begin)*time.Minute >= time.Duration(rule.For) {
				fires[minute] = append(fires[minute], shown.Map())
			}
		}
		since = held
		query.Close()
	}
	return fires
}
