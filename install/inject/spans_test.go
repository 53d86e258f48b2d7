package inject

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLastLines: a container that ends with a text of several lines is taken out as a
// whole, also where one of them begins as a comment does.
func TestLastLines(t *testing.T) {
	const head = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n"
	const tail = "  # about the application\n  containers: [{name: a}]\n"
	const sidecar = "  - name: tproxy-proxy\n    restartPolicy: Always\n    env:\n    - name: A\n      value: "
	const other = "  # about the other\n  - name: other\n    image: b\n"
	for _, value := range []string{
		"|\n        text\n        # hash\n",
		"|\n        # hash\n",
		"|-\n        text\n\n        # hash\n",
		"|2\n          text\n        # hash\n",
		">\n        text\n        # hash\n        # another\n",
		"&a !!str |+\n        text\n        # hash\n",
		"|\n        text\n        # hash\n      # about nothing\n",
		"\"text\n        # hash\"\n",
		"'text\n\n        # it''s\n\n        # hash'\n",
		"\"text\n        # hash\" # a comment\n",
		"{a: [b,\n        # comment\n        \"c\n        # hash\"\n      ]}\n",
		"[\n      # comment\n    ]\n",
		"plain\n        text\n",
	} {
		for _, rest := range []string{"", other} {
			want := head + "  initContainers:\n" + rest + tail
			if rest == "" {
				want = head + tail
			}
			if diff := cmp.Diff(want, uninject(t, head+"  initContainers:\n"+sidecar+value+rest+tail, Options{})); diff != "" {
				t.Errorf("%q (-want +got):\n%s", value, diff)
			}
		}
		last := head + "  containers: [{name: a}]\n  initContainers:\n" + other + sidecar + value
		if diff := cmp.Diff(head+"  containers: [{name: a}]\n  initContainers:\n"+other, uninject(t, last, Options{})); diff != "" {
			t.Errorf("%q at the end (-want +got):\n%s", value, diff)
		}
		if got := uninject(t, strings.TrimSuffix(last, "\n"), Options{}); strings.Contains(got, "hash") {
			t.Errorf("%q at the end, without a newline:\n%s", value, got)
		}
	}
}
