package integration

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

const chromium = "chromium-headless-shell"

// browser is a Chromium with one tab, which the test drives by the DevTools protocol:
// messages in JSON, each with a zero byte behind, on its descriptors 3 and 4.
type browser struct {
	t       *testing.T
	to      *os.File
	session string // the tab's

	mu      sync.Mutex
	last    int
	answers map[int]chan devtoolsMessage
	says    []string // the first complaints
}

// devtoolsMessage is an answer if ID is not 0, else an event.
type devtoolsMessage struct {
	ID            int
	Method        string
	Result        json.RawMessage
	Params        json.RawMessage
	Error         *struct{ Message string }
	closedBrowser bool
}

// browse starts a browser in a namespace.
func browse(t *testing.T, ns *lab.NS, args ...string) *browser {
	t.Helper()
	lab.Need(t, chromium)
	theirs, to, err1 := os.Pipe()
	from, theirs2, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	home := dir(t, appUID)
	cmd := exec.Command("setpriv")
	path, err := lab.Look("setpriv")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path = path
	cmd.Args = app.Args(append([]string{
		chromium, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir=" + home,
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	cmd.ExtraFiles = []*os.File{theirs, theirs2}
	cmd.Stdin = nil
	b := &browser{t: t, to: to, answers: map[int]chan devtoolsMessage{}}
	ns.StartCmd(cmd)
	t.Cleanup(func() { to.Close() })
	theirs.Close()
	theirs2.Close()
	go b.read(from)

	var tab struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &tab)
	var session struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": tab.TargetID, "flatten": true}, &session)
	b.session = session.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read takes all that the browser says, until it ends.
func (b *browser) read(from *os.File) {
	defer from.Close()
	for in := bufio.NewReader(from); ; {
		text, err := in.ReadBytes(0)
		if err != nil {
			break
		}
		var a devtoolsMessage
		if err := json.Unmarshal(text[:len(text)-1], &a); err != nil {
			a = devtoolsMessage{Method: "Log.entryAdded", Params: text}
		}
		b.mu.Lock()
		if to, ok := b.answers[a.ID]; ok {
			to <- a
			delete(b.answers, a.ID)
		} else if a.Method == "Runtime.exceptionThrown" || a.Method == "Log.entryAdded" {
			if len(b.says) < 3 {
				b.says = append(b.says, string(a.Params[:min(len(a.Params), 600)]))
			}
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, to := range b.answers {
		to <- devtoolsMessage{closedBrowser: true}
	}
	b.answers = nil
}

// call calls a method of the protocol.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.last++
	message := map[string]any{"id": b.last, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	back := make(chan devtoolsMessage, 1)
	if b.answers == nil {
		back <- devtoolsMessage{closedBrowser: true}
	} else {
		b.answers[b.last] = back
	}
	b.mu.Unlock()
	text, err := json.Marshal(message)
	if err == nil {
		_, err = b.to.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	a := <-back
	if a.Error != nil || a.closedBrowser {
		b.t.Fatalf("%s: %+v", method, a)
	}
	if result != nil {
		if err := json.Unmarshal(a.Result, result); err != nil {
			b.t.Fatalf("%s: %v in %s", method, err, a.Result)
		}
	}
}

// open goes to a page.
func (b *browser) open(url string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
}

// value is what an expression is in the page, as text. A page that is not there yet has
// the value of its error.
func (b *browser) value(expression string) string {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		return r.ExceptionDetails.Exception.Description
	}
	return fmt.Sprint(r.Result.Value)
}

// await waits until an expression is, or has in it, what is wanted.
func (b *browser) await(expression, want string) {
	b.t.Helper()
	lab.Eventually(b.t, want+" in "+expression, func() error {
		if got := b.value(expression); !strings.Contains(got, want) {
			return fmt.Errorf("%q; the browser says %q", got, b.complaints())
		}
		return nil
	})
}

// complaints are the errors of scripts, and what the browser has refused to do.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.says...)
}

// screen makes the window this large, with the colours of the scheme light or dark.
func (b *browser) screen(width, height int, scheme string) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// picture saves what the page looks like, where SCREENSHOTS names a directory.
func (b *browser) picture(name string) {
	b.t.Helper()
	to := os.Getenv("SCREENSHOTS")
	if to == "" {
		return
	}
	var p struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &p)
	data, err := base64.StdEncoding.DecodeString(p.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(to, name+".png"), data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
