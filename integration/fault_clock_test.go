package integration

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/results"
)

// TestFaultClock: the sidecar's wall clock jumps, a year ahead and a year back among others.
// Nothing of it but the log's time depends on that clock: running and half-closed
// connections go on, new ones are served, and the pod stays ready. The jump is in the
// process alone, in the code by which it reads the clock; the machine's clock stays.
func TestFaultClock(t *testing.T) {
	lab.NeedProcessor(t, "amd64") // for the code that takes the clock's place
	lab.Need(t, "curl", "nginx", "socat")
	inModes(t, setup{bare: true}, func(t *testing.T, p *pod) {
		p.start("--log-format", "json", "--half-closed-timeout", "1m")
		w := p.watch(t)
		p.Pod.StartAs(app, "socat", "TCP6-LISTEN:9000,ipv6only=0,fork,reuseaddr", "PIPE").WaitListen(9000)
		p.Pod.StartAs(app, "socat", "-t", "3600", "TCP6-LISTEN:9001,ipv6only=0,fork,reuseaddr", "SYSTEM:cat > /dev/null; sleep 3600").WaitListen(9001)
		var running []net.Conn
		for _, f := range p.fams() {
			running = append(running, p.dial(t, f, 9000))
			if err := p.dial(t, f, 9001).(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		jump := wallClock(t, p.sidecar)
		f := results.Fault{Name: "the wall clock jumps", What: "running and half-closed connections"}
		for _, by := range []time.Duration{time.Hour, -time.Hour, 365 * 24 * time.Hour, -365 * 24 * time.Hour, 0} {
			jump(by)
			f.Injected++
			if lost, of := w.visit(t, 2, false); lost > 0 {
				t.Errorf("%v: %d of %d new connections are lost", by, lost, of)
			}
			lab.Eventually(t, "the jump in the log", func() error {
				var line struct{ Time time.Time }
				last := lastLineOf(p.sidecar.Output())
				if err := json.Unmarshal([]byte(last), &line); err != nil {
					return err
				}
				if want := time.Now().Add(by); line.Time.Sub(want).Abs() > 30*time.Minute { // it may have waited, but for no jump
					return fmt.Errorf("about %v is wanted in %s", want, last)
				}
				return nil
			})
			for _, conn := range running {
				f.Of += 2 // and a half-closed one
				if err := talks(conn); err != nil {
					f.Lost++
					t.Errorf("%v: a running connection: %v", by, err)
				}
			}
			if n := p.halfClosed(t, 9001); n != len(p.fams()) {
				f.Lost += len(p.fams()) - n
				t.Errorf("%v: %d half-closed connections are left, want %d", by, n, len(p.fams()))
			}
			p.waitReady()
		}
		f.Report(t)
	})
}

func lastLineOf(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// halfClosed counts the client's connections to a port that only the client has closed.
func (p *pod) halfClosed(t *testing.T, port int) (n int) {
	t.Helper()
	const finWait2 = 5
	all, err := p.Client.Sockets()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.RemotePort == port && s.State == finWait2 {
			n++
		}
	}
	return n
}

// wallClock puts code of its own into a process, in the place of the kernel's
// clock_gettime that every process has in its memory (vdso(7)), and returns what makes
// CLOCK_REALTIME jump there, as seen from the true time. Other clocks stay.
func wallClock(t *testing.T, proc *lab.Proc) (jump func(by time.Duration)) {
	t.Helper()
	at, err := vdsoClock(proc.Pid())
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", proc.Pid()), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { memory.Close() })
	code := []byte{
		0x57,                         // push rdi: the clock's number
		0x56,                         // push rsi: struct timespec
		0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, 228: clock_gettime
		0x0f, 0x05, // syscall
		0x5e,       // pop rsi
		0x5f,       // pop rdi
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 0x0a, // jnz to ret
		0x48, 0x8b, 0x0d, 0x0a, 0x00, 0x00, 0x00, // mov rcx, [the seconds]
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // ret
	}
	const seconds = 32 // where they are, behind the code
	code = append(code, make([]byte, seconds+8-len(code))...)
	proc.Halt() // or it might be in the code
	defer proc.Signal(syscall.SIGCONT)
	if _, err := memory.WriteAt(code, at); err != nil {
		t.Fatal(err)
	}
	return func(by time.Duration) {
		t.Helper()
		if _, err := memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(int64(by/time.Second))), at+seconds); err != nil {
			t.Fatal(err)
		}
	}
}

// vdsoClock is where a process has clock_gettime of the vDSO.
func vdsoClock(pid int) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, err
		}
		memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err != nil {
			return 0, err
		}
		defer memory.Close()
		image := make([]byte, to-from)
		if _, err := io.ReadFull(io.NewSectionReader(memory, from, to-from), image); err != nil {
			return 0, err
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, err
		}
		symbols, err := file.DynamicSymbols()
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + int64(s.Value), nil
			}
		}
		return 0, errors.Join(err, errors.New("the vDSO has no clock_gettime"))
	}
	return 0, errors.New("no vDSO")
}
