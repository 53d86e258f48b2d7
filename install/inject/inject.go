// Package inject adds the sidecar to the pods in files of YAML or JSON documents, and
// takes it out. What it does not change, it copies byte for byte.
package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// Inject copies in to out, the sidecar added to every pod and pod template:
// Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, Pods, and Lists
// of them. One that has it is brought up to date: what inject writes is written anew,
// what was added to it stays. A pod with the annotation `mode: none` is left alone.
// Every byte that need not change stays, in JSON, too.
//
// The error names every fault with its file, its document's number, from 1, and line:
// documents that are not YAML, pods that cannot have the sidecar or whose annotations
// are invalid. Nothing is written then. It is also one of in or out.
func Inject(in io.Reader, out io.Writer, o Options) error {
	return one(in, out, o, InjectFiles)
}

// Uninject is the inverse of Inject: it takes the sidecar, its volumes and the
// annotation `mode` out. A sidecar of another proxy needs Options.Sidecar.
func Uninject(in io.Reader, out io.Writer, o Options) error {
	return one(in, out, o, UninjectFiles)
}

func one(in io.Reader, out io.Writer, o Options, do func([]File, io.Writer, Options) error) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	return do([]File{{Text: text}}, out, o)
}

// InjectFiles is Inject for several files, which become one stream in their order.
func InjectFiles(files []File, out io.Writer, o Options) error {
	return stream(files, out, o, false)
}

// UninjectFiles is Uninject for several files.
func UninjectFiles(files []File, out io.Writer, o Options) error {
	return stream(files, out, o, true)
}

func stream(files []File, out io.Writer, o Options, undo bool) error {
	var faults []error
	r := &report{to: o.Notes}
	var outputs []output
	for _, f := range files {
		text, marked, err := decode(f.Text)
		if err != nil {
			faults = append(faults, errors.New(place(f.Name, "")+err.Error()))
			continue
		}
		done := output{marked: marked, json: values(text) != nil}
		if marked && !bytes.HasPrefix(f.Text, []byte(bom)) {
			r.note(place(f.Name, "") + "it was UTF-16, and is written as UTF-8")
			done.marked = false
		}
		for i, p := range documents(text) {
			w := walker{o: o, undo: undo, report: r, place: place(f.Name, fmt.Sprintf("document %d (line %d)", i+1, p.line))}
			text, err := w.document(p)
			if err != nil {
				faults = append(faults, errors.New(w.place+err.Error()))
			}
			done.text = append(done.text, text...)
		}
		outputs = append(outputs, done)
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	r.summary(undo)
	_, err := out.Write(join(outputs))
	return err
}

// place is where something is, before what is to be said of it.
func place(file, document string) string {
	switch {
	case file == "" && document == "":
		return ""
	case file == "":
		return document + ": "
	case document == "":
		return printable.Word(file) + ": "
	}
	return printable.Word(file) + ": " + document + ": "
}

// output is what one file became.
type output struct {
	text         []byte
	marked, json bool // with a byte order mark; as JSON
}

// join makes one stream of files. A single one keeps its byte order mark.
func join(outputs []output) []byte {
	var all []byte
	if len(outputs) == 1 && outputs[0].marked {
		all = append(all, bom...)
	}
	allJSON := true
	for _, o := range outputs {
		allJSON = allJSON && o.json
	}
	for i, o := range outputs {
		if len(all) > 0 && i > 0 && all[len(all)-1] != '\n' {
			all = append(all, '\n')
		}
		separated := bytes.HasPrefix(o.text, []byte("---"))
		// kubectl takes a stream that begins with a brace for JSON to its end.
		if !allJSON && !separated && len(bytes.TrimSpace(o.text)) > 0 && (i > 0 || o.json && len(outputs) > 1) {
			all = append(all, "---\n"...)
		}
		all = append(all, o.text...)
	}
	return all
}

// document adds the sidecar to one document, which may begin with its
// separator.
func (w *walker) document(p part) ([]byte, error) {
	text, err := withoutBOM(p)
	if err != nil {
		return nil, err
	}
	look, tree, isJSON := view, text, json.Valid(text)
	if isJSON {
		look = func(text []byte) (v any, err error) { return v, json.Unmarshal(text, &v) }
		tree = asYAML(text)
	}
	var root yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(tree))
	if err := d.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, w.inFile(p, err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf(`the document after "..." must begin with "---" (%v)`, err)
	}
	if len(root.Content) == 0 {
		return text, nil // comments only
	}
	if isJSON {
		err = fillIn(&root, text)
	}
	if err != nil {
		return nil, err
	}
	v, err := look(text)
	if err != nil {
		return nil, w.inFile(p, err)
	}
	w.edit = newEditor(tree, &root)
	if err := w.object(root.Content[0], v, str(v, "kind"), str(v, "apiVersion")); err != nil || len(w.edit.edits) == 0 {
		return text, err
	}
	if err := duplicate(&root, p.line); err != nil {
		return nil, err
	}
	out := w.edit.apply(text)
	if got, err := look(out); err != nil || !reflect.DeepEqual(normal(got), normal(v)) {
		return nil, errors.New("the pod is written in a style that cannot be changed in place: write spec, metadata and initContainers in block style, one key a line, without anchors")
	}
	return out, nil
}

// lineNumber is one in the errors of the YAML libraries.
var lineNumber = regexp.MustCompile(`\bline (\d+)\b`)

// inFile is an error of the YAML library with the file's line in place of the document's.
func (w *walker) inFile(p part, err error) error {
	text := lineNumber.ReplaceAllStringFunc(err.Error(), func(s string) string {
		var n int
		_, _ = fmt.Sscanf(s, "line %d", &n)
		return fmt.Sprintf("line %d", n+p.line-1)
	})
	if bytes.HasPrefix(p.text, []byte("%")) {
		text += " (Kubernetes reads no %YAML directive: remove it)"
	}
	return errors.New(text)
}

// duplicate finds a key that a mapping has twice: kubectl takes the last in silence, and
// other tools the first.
func duplicate(n *yaml.Node, first int) error {
	seen := map[string]bool{}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if seen[c.Value] {
				return fmt.Errorf("line %d: the key %s is there twice: remove one", c.Line+first-1, printable.Word(c.Value))
			}
			seen[c.Value] = true
		}
		if err := duplicate(c, first); err != nil {
			return err
		}
	}
	return nil
}

// normal is a view without what means the same as its absence.
func normal(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = normal(e)
		}
		return out
	case object:
		out := object{}
		for key, value := range v {
			value = normal(value)
			empty := value == nil || reflect.DeepEqual(value, object{}) || reflect.DeepEqual(value, []any{})
			switch key {
			case "metadata", "annotations", "initContainers", "volumes":
				if empty {
					continue
				}
			}
			out[key] = value
		}
		return out
	}
	return v
}
