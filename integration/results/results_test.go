package results

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := Table{Title: "one", Head: []string{"", "x"}, Rows: [][]string{{"a", "1"}, {"bb", "22"}}}
	var text, markdown strings.Builder
	if err := table.Text(&text); err != nil {
		t.Fatal(err)
	}
	table.Markdown(&markdown)
	if want := "\none\n\n       x\n   a   1\n  bb  22\n"; text.String() != want {
		t.Errorf("%q, want %q", text.String(), want)
	}
	if want := "\none\n\n|  | x |\n|---|--:|\n| a | 1 |\n| bb | 22 |\n"; markdown.String() != want {
		t.Errorf("%q, want %q", markdown.String(), want)
	}
	text.Reset()
	if err := (Table{Title: "none"}).Text(&text); err != nil || text.String() != "" {
		t.Errorf("%q, %v", text.String(), err)
	}
}

func TestThisMachine(t *testing.T) {
	if m := ThisMachine(); m.Kernel == "" || m.CPUs < 1 {
		t.Errorf("%+v", m)
	}
}
