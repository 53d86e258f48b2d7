package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSetImage: connections of real clients outlive another image of the sidecar, with
// k8s/hold as it stands (in tproxy mode without the capabilities of its first container).
// When the pod ends, the holder goes before the sidecar, which drains.
func TestSetImage(t *testing.T) {
	t.Parallel()
	const next = "tproxy-cni:next"
	for n := 1; n <= nodes; n++ {
		onNodeRun(t, n, "ctr", "-n", "k8s.io", "images", "tag", "--force", "docker.io/library/tproxy-cni:latest", "docker.io/library/"+next)
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			if _, err := ns.input(held(t, mode), "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
			ns.kubectl("rollout", "status", "deployment/echo", "--timeout=240s")
			name := ns.kubectl("get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}")
			var clients []*client
			for i, ip := range ns.addrs("pod/" + name) {
				clients = append(clients,
					connect(t, "socat", "-", fmt.Sprintf("TCP%d:%s", 4+2*i, net.JoinHostPort(ip.String(), "8080"))),
					connect(t, "nc", ip.String(), "8080"))
			}
			for _, c := range clients {
				c.say("hello")
				if peer, err := c.out.ReadString('\n'); err != nil || !strings.HasPrefix(peer, "peer=") {
					t.Fatalf("%s: %q, %v", c.name, peer, err)
				}
				c.want("hello")
			}

			ns.kubectl("set", "image", "pod/"+name, "tproxy-proxy="+next)
			await(t, 4*time.Minute, "the next sidecar", func() error {
				if log := ns.log(name, "tproxy-proxy"); !strings.Contains(log, `msg="took over" connections=4 `) {
					return fmt.Errorf("it has not taken over:\n%s", log)
				}
				return nil
			})
			block := strings.Repeat("0123456789abcdef", 4096)
			for _, c := range clients {
				c.say(block)
				c.want(block)
			}
			ns.ready(name)
			if n := ns.restarts(name); n != 1 {
				t.Errorf("the sidecar was restarted %d times", n)
			}
			others := ns.kubectl("get", "pod", name, "-o", "jsonpath={.status.initContainerStatuses[1].restartCount}{.status.containerStatuses[0].restartCount}")
			if others != "00" {
				t.Errorf("holder and application were restarted: %s", others)
			}

			last := make(chan string)
			go func() {
				out, _ := ns.try("logs", "-f", name, "-c", "tproxy-proxy")
				last <- out
			}()
			ns.kubectl("delete", "pod", name, "--wait=false")
			if log := <-last; !strings.Contains(log, "no holder any more: draining") {
				t.Errorf("at the pod's end the sidecar did not drain:\n%s", log)
			}
		})
	}
}

// held is the echo-server with the sidecar and its holder.
func held(t *testing.T, mode string) string {
	t.Helper()
	const capabilities = "          capabilities:\n            drop: [ALL]"
	read := func(file string) string {
		text, err := os.ReadFile("../../k8s/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	sidecar := read("hold/sidecar.yaml")
	if mode == "tproxy" {
		before, line, ok := strings.Cut(sidecar, capabilities)
		_, after, _ := strings.Cut(line, "\n")
		if sidecar = before + after; !ok {
			t.Fatal("no capabilities in", sidecar)
		}
	}
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(file, []byte(sidecar), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("../../bin/tproxy-install", "inject", "--sidecar", file)
	cmd.Stdin = strings.NewReader(strings.Replace(read("proxies/base/echo.yaml"), "mode: nat", "mode: "+mode, 1))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// client is a program on node 2 that holds a connection.
type client struct {
	t    *testing.T
	name string
	in   io.Writer
	out  *bufio.Reader
}

// connect starts one, which ends with the test.
func connect(t *testing.T, args ...string) *client {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binDir+"/cluster", append([]string{"nx", "2"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(10*time.Minute, func() { _ = cmd.Process.Kill() }) // so that no read waits for ever
	t.Cleanup(func() {
		late.Stop()
		in.Close()
		_ = cmd.Wait()
	})
	return &client{t, strings.Join(args, " "), in, bufio.NewReader(out)}
}

// say sends a line. What comes back is read by want: no more may be under way than the
// pipes hold.
func (c *client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text+"\n"); err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
}

func (c *client) want(text string) {
	c.t.Helper()
	if got, err := c.out.ReadString('\n'); err != nil || got != text+"\n" {
		c.t.Fatalf("%s: %d bytes come back of %d, or others: %v", c.name, len(got), len(text)+1, err)
	}
}
