package dial

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/accesslog"
)

// Timeout bounds the wait for the application. Over lo the answer takes
// microseconds, so this is for a full accept queue.
const Timeout = 30 * time.Second

var (
	// ErrNotIntercepted is a connection that the plugin's rules do not send to the
	// sidecar.
	ErrNotIntercepted = errors.New("not an intercepted connection")

	// ErrUnprepared means that the plugin has not run for this pod.
	ErrUnprepared = errors.New("the kernel refuses the client's address as a source: " +
		"the " + contract.PluginType + " plugin has not prepared this network namespace (ip rule, route `local default`, ip_nonlocal_bind)")

	errNoPort = errors.New("no free port: the client has as many connections to this destination as there are ports for it")
)

// Cure is what to do about a pod that is not prepared.
const Cure = "check the pod's annotation " + contract.AnnotationPrefix + "mode and that the " + contract.PluginType +
	" plugin was in the node's CNI chain when the pod started; then delete the pod, or let the installer repair it (--repair)"

// TimedOut is the error of a dial that got no answer within Timeout.
func TimedOut() error { return explain(os.NewSyscallError("connect", os.ErrDeadlineExceeded)) }

// explain adds the missing step of the plugin where that is the cause.
func explain(err error) error {
	switch call, errno := syscallOf(err); {
	case call == "bind" && errno == unix.EADDRNOTAVAIL,
		call == "connect" && errno == unix.EINVAL: // bind let it pass: the pod has ip_nonlocal_bind
		return fmt.Errorf("%w: %w; %s", err, ErrUnprepared, Cure)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: no answer within %v: the application's accept queue is full, "+
			"or the plugin's proxy-uid is not this process's %d", err, Timeout, os.Getuid())
	}
	return err
}

// Outcome is how a connection ends whose dial failed with err.
func Outcome(err error) accesslog.Outcome {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	how := accesslog.Failed
	switch {
	case is(ErrUnprepared):
		how = accesslog.Unprepared
	case is(unix.ECONNREFUSED, unix.ECONNRESET):
		how = accesslog.Refused
	case is(os.ErrDeadlineExceeded, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH):
		how = accesslog.Unreachable
	case is(errNoPort, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRINUSE, unix.EADDRNOTAVAIL):
		how = accesslog.Exhausted
	}
	return accesslog.Outcome{How: how, Err: err}
}

// portRefused reports whether another port may do. EADDRINUSE: something listens on
// this one on every address; EACCES: it is privileged; EADDRNOTAVAIL from connect:
// such a connection exists already.
func portRefused(err error) bool {
	switch call, errno := syscallOf(err); call {
	case "bind":
		return errno == unix.EADDRINUSE || errno == unix.EACCES
	case "connect":
		return errno == unix.EADDRINUSE || errno == unix.EADDRNOTAVAIL
	}
	return false
}

// holderKind says what has the ports that were refused.
func holderKind(err error) string {
	if call, _ := syscallOf(err); call == "bind" {
		return "something in this pod listens on them, on every address or on the client's"
	}
	return "connections of this client that have just ended have them"
}

// syscallOf finds the system call that failed.
func syscallOf(err error) (string, error) {
	var serr *os.SyscallError
	if errors.As(err, &serr) {
		return serr.Syscall, serr.Err
	}
	return "", nil
}
