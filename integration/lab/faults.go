package lab

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Faults is n, or as many times more as FAULTS says: for the number of times that a test
// injects a fault. `make faults FAULTS=20` is a long run.
func Faults(n int) int {
	if times, err := strconv.Atoi(os.Getenv("FAULTS")); err == nil && times > 1 {
		return n * times
	}
	return n
}

// Random is for moments that a test leaves to chance. It logs its seed, and takes that of
// FAULTS_SEED again.
func Random(t TB) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("FAULTS_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("FAULTS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// KillWithin kills the program at a random moment of the time that is given, unless it ends
// before. It reports whether it killed it.
func (p *Proc) KillWithin(r *rand.Rand, most time.Duration) (killed bool) {
	select {
	case <-p.done:
	case <-time.After(time.Duration(r.Int64N(int64(most)))):
		p.Kill()
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// Injection makes system calls of a program fail.
type Injection struct {
	t    TB
	proc *Proc
	log  string
}

// Inject attaches strace(1) to all threads of a process, as root, with one expression for
// each kind of call: "accept4:error=EMFILE:when=2+3" (strace's option inject). What is
// injected begins before it returns. The process runs slower until End.
func (ns *NS) Inject(pid int, expressions ...string) *Injection {
	ns.t.Helper()
	Need(ns.t, "strace")
	i := &Injection{t: ns.t}
	var args []string
	i.log, args = straceArgs(ns.t, expressions)
	i.proc = ns.Start(append(args, "-p", strconv.Itoa(pid))...).WaitLog(" attached")
	return i
}

// straceArgs is strace with a file that it logs the injected calls to.
func straceArgs(t TB, expressions []string) (log string, args []string) {
	t.Helper()
	f, err := os.CreateTemp("", "lab-strace-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	f.Close()
	t.Cleanup(func() { os.Remove(f.Name()) })
	var calls []string
	args = []string{"strace", "-f", "-e", "signal=none", "-o", f.Name()}
	for _, e := range expressions {
		call, _, _ := strings.Cut(e, ":")
		calls = append(calls, call)
		args = append(args, "-e", "inject="+e)
	}
	return f.Name(), append(args, "-e", "trace="+strings.Join(calls, ","))
}

// Count is how often a call has failed so far.
func (i *Injection) Count() int {
	i.t.Helper()
	return injected(i.t, i.log)
}

func injected(t TB, log string) int {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return strings.Count(string(text), "(INJECTED)")
}

// End lets the program go on alone, and returns how often a call has failed.
func (i *Injection) End() int {
	i.t.Helper()
	i.proc.Signal(unix.SIGINT)
	<-i.proc.Done()
	return i.Count()
}

// Injected is a command's arguments under strace, and what counts the calls that have
// failed after it has ended; see Inject.
func Injected(t TB, command []string, expressions ...string) (args []string, count func() int) {
	t.Helper()
	Need(t, "strace")
	log, args := straceArgs(t, expressions)
	return append(append(args, "-qqq", "--"), command...), func() int { t.Helper(); return injected(t, log) }
}
