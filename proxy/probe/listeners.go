package probe

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/proxy/podstat"
)

// ExplainTaken adds to the error of a listener whose port is taken (EADDRINUSE)
// which uid of the pod has it, and what to do. It may be another container's, which
// nothing else shows. Other errors are returned unchanged. flag and annotation set
// the port.
func ExplainTaken(err error, port uint16, flag, annotation string) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	holder := "something in this pod has bound it without listening"
	if uids, herr := listeners(func(p uint16) bool { return p == port }); herr != nil {
		holder = fmt.Sprintf("its holder is unknown (%v)", herr)
	} else if len(uids) > 0 {
		uid, _ := foremost(uids)
		holder = fmt.Sprintf("uid %s of this pod listens on it", uid)
	}
	return fmt.Errorf("%w: %s; stop that process, which gets the sidecar's connections, or give the sidecar another port: "+
		"this process's --%s and the pod's annotation %s", err, holder, flag, contract.AnnotationPrefix+annotation)
}

// listeners counts the TCP listeners of this pod on the wanted ports, by the uid of
// their owner.
func listeners(wanted func(port uint16) bool) (uids map[string]int, err error) {
	uids = map[string]int{}
	err = podstat.Listeners(func(port uint16, uid uint32) {
		if wanted(port) {
			uids[strconv.FormatUint(uint64(uid), 10)]++
		}
	})
	return uids, err
}

// foremost is the uid with the most.
func foremost(uids map[string]int) (uid string, n int) {
	for u, m := range uids {
		if m > n || m == n && u < uid {
			uid, n = u, m
		}
	}
	return uid, n
}
