package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// User is who a program runs as. Its capabilities are exactly the given ones:
// they are ambient and they are the bounding set, as in a container that drops
// all others.
type User struct {
	UID  int
	Caps []string // as setpriv names them: "net_raw"; none by default

	// Bounding are capabilities that the program does not have but may get
	// by its file capabilities.
	Bounding []string

	// NoNewPrivs is allowPrivilegeEscalation: false.
	NoNewPrivs bool
}

// Proc is a running program. Its output is shown when the test fails.
type Proc struct {
	t    TB
	ns   *NS
	name string
	cmd  *exec.Cmd
	out  *Output
	done chan struct{} // closed when the program has ended
	err  error         // how it ended; read after done
}

// Start starts a program in the namespace as root. It is ended with the test.
func (ns *NS) Start(args ...string) *Proc {
	ns.t.Helper()
	return ns.StartCmd(command(context.Background(), args...))
}

// StartAs starts a program as an unprivileged user.
func (ns *NS) StartAs(u User, args ...string) *Proc {
	ns.t.Helper()
	p := ns.StartCmd(command(context.Background(), u.Args(args...)...))
	p.name = args[0]
	return p
}

// TryAs is Try as an unprivileged user.
func (ns *NS) TryAs(u User, args ...string) (string, error) {
	return ns.Try(u.Args(args...)...)
}

// Args puts setpriv in front of a command, which replaces itself by it: the
// process id stays.
func (u User) Args(args ...string) []string {
	set := func(caps ...[]string) string {
		list := "-all"
		for _, cs := range caps {
			for _, c := range cs {
				list += ",+" + c
			}
		}
		return list
	}
	id := strconv.Itoa(u.UID)
	front := []string{
		"setpriv", "--reuid", id, "--regid", id, "--clear-groups",
		"--bounding-set", set(u.Caps, u.Bounding), "--inh-caps", set(u.Caps), "--ambient-caps", set(u.Caps),
	}
	if u.NoNewPrivs {
		front = append(front, "--no-new-privs")
	}
	if path, err := Look(args[0]); err == nil {
		args = append([]string{path}, args[1:]...)
	}
	return append(front, args...)
}

// StartCmd is Start for a command that needs more than arguments.
func (ns *NS) StartCmd(cmd *exec.Cmd) *Proc {
	ns.t.Helper()
	p := &Proc{t: ns.t, ns: ns, name: cmd.Args[0], cmd: cmd, out: &Output{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.out
	}
	cmd.WaitDelay = waitDelay
	apart(cmd)
	if err := ns.Do(cmd.Start); err != nil {
		ns.t.Fatalf("start %s in %s: %v", p.name, ns.name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	ns.t.Cleanup(func() {
		p.Kill()
		if ns.t.Failed() {
			ns.t.Logf("%s (pid %d): %v\n%s", p.name, p.Pid(), p.err, tail(p.Output()))
		}
	})
	return p
}

// Pid is the program's process id.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Output is what the program has written to stdout and stderr so far.
func (p *Proc) Output() string { return p.out.String() }

// Signal sends the program a signal; to one that has ended it does nothing.
func (p *Proc) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// Done is closed when the program has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Halt stops the program with SIGSTOP, and returns when each of its threads stands still.
func (p *Proc) Halt() {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	p.waitFor("it stands still", func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid()))
		for _, path := range threads {
			if stat, rerr := os.ReadFile(path); rerr == nil && !strings.Contains(string(stat), ") T ") {
				err = errors.New(string(stat))
			}
		}
		return err
	})
}

// Kill ends the program with SIGKILL and waits for its end.
func (p *Proc) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop ends the program with SIGTERM and returns how it ended.
func (p *Proc) Stop() error {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait waits for the program's own end and returns how it ended.
func (p *Proc) Wait() error {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit(time.Minute)):
		p.t.Fatalf("%s (pid %d) does not end\n%s", p.name, p.Pid(), tail(p.Output()))
	}
	return p.err
}

// WaitLog waits until the program has written the text.
func (p *Proc) WaitLog(text string) *Proc {
	p.t.Helper()
	p.waitFor(fmt.Sprintf("output with %q", text), func() error {
		if !strings.Contains(p.Output(), text) {
			return fmt.Errorf("not in:\n%s", tail(p.Output()))
		}
		return nil
	})
	return p
}

// WaitListen waits until there is a TCP listener on each of the ports in the
// program's namespace.
func (p *Proc) WaitListen(ports ...int) *Proc {
	p.t.Helper()
	p.waitFor(fmt.Sprintf("listener on %v", ports), func() error {
		for _, port := range ports {
			if ok, err := p.ns.Listening(port); err != nil || !ok {
				return fmt.Errorf("port %d: no listener (%v)", port, err)
			}
		}
		return nil
	})
	return p
}

// waitFor is Eventually that gives up when the program has ended.
func (p *Proc) waitFor(what string, check func() error) {
	p.t.Helper()
	Eventually(p.t, p.name+": "+what, func() error {
		err := check()
		select {
		case <-p.done:
			if err != nil {
				p.t.Fatalf("%s ended (%v) before: %s\n%s", p.name, p.err, what, tail(p.Output()))
			}
		default:
		}
		return err
	})
}

// tail is the end of a text that may be long.
func tail(s string) string {
	const most = 16 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}
