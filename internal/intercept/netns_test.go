package intercept

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestEnteringFails: why a namespace cannot be entered is the kernel's error, by which ADD
// tells "try again" from what another try does not mend. The process is where it was.
func TestEnteringFails(t *testing.T) {
	n, err := OpenNetNS(newPod(t).Path())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	inside := ""
	look := func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}
	if err := n.Do(look); err != nil {
		t.Fatal(err)
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil || home == inside {
		t.Errorf("inside is %s, outside %s, %v", inside, home, err)
	}

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	err = n.Do(look)
	_, herr := newHandle(n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{err, herr} {
		if !errors.Is(err, unix.EMFILE) || !Transient(err) {
			t.Errorf("without descriptors: %v", err)
		}
	}

	refused := errors.New("refused")
	if err := n.Do(func() error { return refused }); !errors.Is(err, refused) {
		t.Errorf("what is called says %v", err)
	}
}
