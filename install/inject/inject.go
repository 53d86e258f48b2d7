// Package inject adds the sidecar to the pods in a stream of YAML or JSON
// documents. What it does not change, it copies byte for byte.
package inject

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Options say which sidecar to add.
type Options struct {
	// Mode is contract.ModeNAT or contract.ModeTProxy, for pods that do not
	// choose one themselves; ModeNAT if empty.
	Mode string

	// Image is the sidecar's image, or only its tag, as for `make images`;
	// DefaultImage if empty.
	Image string

	// Sidecar is another proxy's; the built-in one if nil. Image is then for its
	// containers whose image is tproxy-cni.
	Sidecar Sidecar
}

// DefaultImage is the image that this program was built for: the linker sets it
// (k8s/images), and it is what `make images` builds by default.
var DefaultImage = imageName + ":latest"

const (
	imageName = "tproxy-cni"

	// Container is the name of the sidecar's container. A pod that has a
	// container of this name is left alone.
	Container = "tproxy-proxy"

	// Label asks for the sidecar and names its mode. It overrides the
	// annotation `mode`, as in the admission policy.
	Label = contract.AnnotationPrefix + "inject"
)

// Inject copies in to out, the sidecar added to every pod and pod template
// that does not have it: Deployments, StatefulSets, DaemonSets, ReplicaSets,
// Jobs, CronJobs, Pods, and Lists of them. A pod with the annotation `mode:
// none` is left alone. A document that is not changed comes out byte for byte; a
// changed one keeps its order and comments, but may lose blank lines and
// alignment, and JSON becomes YAML.
//
// The error names every fault with its document's number, from 1: documents that
// are not YAML, pods that cannot have the sidecar or whose annotations are
// invalid. Nothing is written then. It is also one of in or out.
func Inject(in io.Reader, out io.Writer, o Options) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var result bytes.Buffer
	var faults []error
	for i, d := range documents(text) {
		d, err := document(d, o)
		if err != nil {
			faults = append(faults, fmt.Errorf("document %d: %w", i+1, err))
		}
		result.Write(d)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	_, err = out.Write(result.Bytes())
	return err
}

// documents cuts a stream before each line that separates two documents. Such a
// line cannot be part of a document, not even of a block of text.
func documents(text []byte) (docs [][]byte) {
	start := 0
	for pos := 0; pos < len(text); {
		end := len(text)
		if i := bytes.IndexByte(text[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		line := bytes.TrimRight(text[pos:end], "\r\n")
		rest, ok := bytes.CutPrefix(line, []byte("---"))
		if ok && pos > start && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			docs = append(docs, text[start:pos])
			start = pos
		}
		pos = end
	}
	return append(docs, text[start:])
}

// document adds the sidecar to one document, which may begin with its
// separator.
func document(text []byte, o Options) ([]byte, error) {
	var root yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf(`the document after "..." must begin with "---" (%v)`, err)
	}
	if len(root.Content) == 0 {
		return text, nil // comments only
	}
	compact := compact(&root)
	changed, err := object(root.Content[0], o)
	if err != nil || !changed {
		return text, err
	}
	unfold(&root)
	var b bytes.Buffer
	if bytes.HasPrefix(text, []byte("---")) {
		b.WriteString("---\n")
	}
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if compact {
		e.CompactSeqIndent()
	}
	if err := e.Encode(&root); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// compact reports whether the first list that is a key's value is written without
// indentation of its own, or there is none.
func compact(n *yaml.Node) bool {
	found := true
	var walk func(*yaml.Node) bool
	walk = func(n *yaml.Node) bool {
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && c.Kind == yaml.SequenceNode && c.Style&yaml.FlowStyle == 0 {
				found = c.Column == n.Content[i-1].Column
				return true
			}
			if walk(c) {
				return true
			}
		}
		return false
	}
	walk(n)
	return found
}
