// Package preflight finds out, in a child process, what the node's kernel can
// do for each mode.
package preflight

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/intercept"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
)

// timeout is how long the child may take.
const timeout = time.Minute

// Verdict is what preflight found about a mode.
type Verdict struct {
	Mode    string   `json:"mode"`
	Missing []string `json:"missing"`         // features that the kernel lacks
	Guard   string   `json:"packet_guard"`    // the packet guard that it can have: contract.GuardNFT, GuardTC or GuardNone; empty if not known
	Text    string   `json:"packet_guard_is"` // that guard in a sentence
	Error   string   `json:"error,omitempty"` // why nothing is known, empty otherwise
}

// Lacks are the features that the kernel lacks for the mode where the whole packet guard
// is required, or not.
func (v Verdict) Lacks(required bool) []string {
	if required && v.Guard != "" && v.Guard != contract.GuardNFT {
		return append(v.Missing[:len(v.Missing):len(v.Missing)], intercept.EgressHook)
	}
	return v.Missing
}

// Modes are those that preflight tries.
func Modes() []string { return []string{contract.ModeNAT, contract.ModeTProxy} }

// Try programs each mode in a network namespace of its own. It needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN, or to be the first process of a user
// namespace, as Ask makes it. What goes wrong is in the verdicts.
func Try() (verdicts []Verdict) {
	for _, mode := range Modes() {
		v := Verdict{Mode: mode, Missing: []string{}}
		missing, guard, err := intercept.Preflight(contract.Mode(mode))
		if v.Missing = append(v.Missing, missing...); err != nil {
			v.Error = err.Error()
		} else {
			v.Guard, v.Text = string(guard.Guard), guard.String()
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// Ask runs command, a program with its arguments that calls Try and writes the
// verdicts to its standard output as JSON. The child has this process's
// capabilities or, if CAP_SYS_ADMIN is not among them, those of a new user
// namespace. The error says why the child could not find out: it is one of
// starting it, with what it wrote to standard error, or of its output.
func Ask(ctx context.Context, command ...string) ([]Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = os.Environ()
	cmd.Stderr = &stderr
	caps, err := cap.GetPID(0)
	if err != nil {
		return nil, fmt.Errorf("read capabilities: %w", err)
	}
	may, err := caps.GetFlag(cap.Effective, cap.SYS_ADMIN)
	if err != nil {
		return nil, err
	}
	if !may {
		// No ids are mapped, since mapping root's takes CAP_SETFCAP: ambient
		// capabilities survive the execution without it. The network namespace
		// is one that a thread of the child can return to.
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN},
		}
	}
	out, err := cmd.Output()
	if err != nil && !may {
		return nil, fmt.Errorf("it takes CAP_SYS_ADMIN and CAP_NET_ADMIN, or a user namespace: %w %s", err, stderr.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, stderr.Bytes())
	}
	var verdicts []Verdict
	err = json.Unmarshal(out, &verdicts)
	for i := range verdicts { // texts of the kernel and of libraries
		v := &verdicts[i]
		v.Error, v.Text = printable.Line(v.Error), printable.Line(v.Text)
		for j := range v.Missing {
			v.Missing[j] = printable.Line(v.Missing[j])
		}
	}
	return verdicts, err
}
