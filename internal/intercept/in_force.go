package intercept

import (
	"encoding/binary"
	"fmt"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// The rules by which InForce knows the settings say this.
const (
	refusesDial   = "refuses a dial of uid %d to its own port"
	exemptsHealth = "exempts the sidecar's health endpoint"
)

// InForce reads with which settings the namespace at path has been programmed: c with
// the mode, the ports and the uid of the sidecar as the rules there have them. What
// no rule says, because it is gone or of an earlier version, is as in c.
//
// Its error is a NoNetNS, or the kernel's. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN
// to enter a namespace that is not the process's own.
func InForce(path string, c Config) (Config, error) {
	asked := c
	p, err := open(path)
	if err != nil {
		return c, err
	}
	defer p.close()
	tables, err := p.readTables()
	if err != nil {
		return c, err
	}
	chains := tables["inet "+contract.Table].chains
	_, nat := chains["redirect_in"]
	_, tproxy := chains["divert_in"]
	switch {
	case nat && !tproxy:
		c.Mode = contract.ModeNAT
	case tproxy && !nat:
		c.Mode = contract.ModeTProxy
	}
	for _, r := range chains["loopback"].rules {
		var uid uint32
		if n, _ := fmt.Sscanf(r.comment, refusesDial, &uid); n != 1 {
			continue
		}
		if port, ok := comparedPort(r.expr); ok && uid != 0 {
			c.ProxyUID, c.ProxyPort = uid, port
		}
	}
	for _, r := range chains["exempt"].rules {
		if port, ok := comparedPort(r.expr); ok && r.comment == exemptsHealth {
			c.AdminPort = port
		}
	}
	if c.validate() != nil { // a process of the pod may have written anything
		return asked, nil
	}
	return c, nil
}

// comparedPort is the port that a rule compares with: the first value of two bytes.
func comparedPort(expressions string) (port uint16, ok bool) {
	v, ok := compared(expressions, 2)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint16(v), true
}

// compared is the first value of so many bytes that a rule compares with. expressions
// are a ruleState's, the name and the data of each in turn.
func compared(expressions string, size int) (v []byte, ok bool) {
	list, err := mnl.UnmarshalAttributes([]byte(expressions))
	if err != nil {
		return nil, false
	}
	name := ""
	for _, a := range list {
		if a.Type&^uint16(mnl.Nested) == unix.NFTA_EXPR_NAME {
			name = cString(a.Data)
			continue
		}
		v := nested(nested(a.Data)[unix.NFTA_CMP_DATA])[unix.NFTA_DATA_VALUE]
		if name == "cmp" && len(v) == size {
			return v, true
		}
	}
	return nil, false
}
