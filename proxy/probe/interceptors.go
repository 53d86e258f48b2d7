package probe

import (
	"fmt"
	"strconv"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// Interceptors names the programs that listen in this pod as another inbound
// interceptor's proxy does, by the port and the user that it has by default: "uid 1337
// of this pod listens on port 15006, as istio's proxy does".
//
// It is all that can be seen of one without privileges, and no proof: whether its rules
// take this pod's connections is settled elsewhere (istio's includeInboundPorts and
// linkerd's skip-inbound-ports may leave all of them alone), and packets that the
// sidecar sends within the pod never meet those rules. So it is a reason to warn, and
// to explain what else is wrong, but none to be not ready: that would take a pod that
// works out of service. The plugin's CHECK sees the rules.
func Interceptors() (who []string, err error) {
	for _, i := range contract.Interceptors {
		uids, err := listeners(func(port uint16) bool { return port == i.Port })
		if err != nil {
			return nil, err
		}
		if uids[strconv.Itoa(int(i.UID))] > 0 {
			who = append(who, fmt.Sprintf("uid %d of this pod listens on port %d, as %s's proxy does", i.UID, i.Port, i.Name))
		}
	}
	return who, nil
}
