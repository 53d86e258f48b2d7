package report

import (
	"encoding"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// fields are the names of a type's fields in JSON, with those of the structs in it:
// "live.list[].client".
func fields(t reflect.Type, prefix string) (all []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		name = prefix + name
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Slice || inner.Kind() == reflect.Array {
			name, inner = name+"[]", inner.Elem()
		}
		text := reflect.TypeFor[encoding.TextMarshaler]()
		if inner.Kind() != reflect.Struct || inner == reflect.TypeFor[time.Time]() || inner.Implements(text) {
			all = append(all, name)
			continue
		}
		all = append(all, fields(inner, name+".")...)
	}
	return all
}

// TestReference: docs/REFERENCE.md has each field of the document, in its order, and no
// other.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n## The sidecar's status\n")
	part, _, _ = strings.Cut(part, "\n## ")
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(part, -1) {
		documented = append(documented, m[1])
	}
	if want := fields(reflect.TypeFor[Document](), ""); !slices.Equal(documented, want) {
		t.Errorf("the page has\n%s\nthe document\n%s", strings.Join(documented, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range documented {
		if !regexp.MustCompile(`^[a-z0-9_.\[\]]+$`).MatchString(name) {
			t.Errorf("%s is not in snake_case", name)
		}
	}
}
