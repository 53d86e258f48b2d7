package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDockerfile compares the Dockerfile's stages with the list of images.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	builds, stages := map[string]file{}, map[string][]string{}
	stage, from := "", regexp.MustCompile(`^FROM scratch AS (\S+)$`)
	goBuild := regexp.MustCompile(`^RUN go build -ldflags "\$LDFLAGS" -o (\S+) (\S+)$`)
	joined := strings.ReplaceAll(string(text), "\\\n", " ")
	for line := range strings.Lines(joined) {
		line = strings.Join(strings.Fields(line), " ")
		if m := from.FindStringSubmatch(line); m != nil {
			stage = m[1]
		} else if m := goBuild.FindStringSubmatch(line); m != nil {
			builds[m[1]] = file{path: m[1], pkg: m[2]}
		} else if path, ok := strings.CutPrefix(line, "RUN setcap cap_net_raw=p "); ok {
			f := builds[path]
			f.capability = netRawPermitted
			builds[path] = f
		} else if stage != "" && line != "" && !strings.HasPrefix(line, "#") {
			stages[stage] = append(stages[stage], line)
		}
	}
	want := map[string][]string{}
	for _, i := range images {
		for _, f := range i.files {
			if diff := cmp.Diff(f, builds[f.path], cmp.AllowUnexported(file{})); diff != "" {
				t.Errorf("%s is built in another way (-image.go +Dockerfile):\n%s", f.path, diff)
			}
		}
		want[i.name] = instructions(i)
	}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("stages (-image.go +Dockerfile):\n%s", diff)
	}
}

// instructions is what a Dockerfile says of an image.
func instructions(i image) []string {
	lines := []string{"ARG VERSION=dev"}
	for _, f := range i.files {
		lines = append(lines, "COPY --from=build "+f.path+" "+f.path)
	}
	label, labels := "LABEL", i.labels("$VERSION")
	for _, key := range []string{"title", "description", "licenses", "source", "version"} {
		key = "org.opencontainers.image." + key
		label += " " + key + `="` + labels[key] + `"`
		delete(labels, key)
	}
	for key := range labels {
		label += " and " + key
	}
	expose := "EXPOSE"
	for _, p := range slices.Sorted(maps.Keys(i.exposed())) {
		expose += " " + p
	}
	return append(lines, label, expose, "USER "+i.user, `ENTRYPOINT ["`+i.entrypoint+`"]`)
}
