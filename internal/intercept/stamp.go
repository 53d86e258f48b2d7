package intercept

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
	"github.com/tproxy-cni/tproxy-cni/internal/printable"
	"github.com/tproxy-cni/tproxy-cni/internal/version"
)

// stamp is the comment of set own4. It says which version of the plugin has programmed
// the pod; nothing else depends on it, and whoever has NET_ADMIN in the pod can write it.
func stamp() string { return stampPrefix + thisVersion() }

// thisVersion is "v0.2.0", or "dev".
func thisVersion() string {
	v, _, _ := strings.Cut(version.String(), " ")
	return v
}

const stampPrefix = "programmed by " + contract.PluginType + " "

// otherVersion says that another version of the plugin has programmed the pod, empty if
// it was this one, or if there is no set that could say it. v0.1.0 left no stamp.
func (p *pod) otherVersion() (string, error) {
	found, have := false, ""
	err := dump(p.raw, nftables.TableFamilyINet, unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE, func(attrs map[uint16][]byte) {
		if cString(attrs[unix.NFTA_SET_NAME]) == ownSets[0] {
			found, have = true, textIn(attrs[unix.NFTA_SET_USERDATA], userdata.NFTNL_UDATA_SET_COMMENT)
		}
	})
	if err != nil || !found || have == stamp() {
		return "", wrap("read set "+ownSets[0], err)
	}
	by := "an earlier version"
	if v, ok := strings.CutPrefix(have, stampPrefix); ok {
		by = printable.Word(v)
	}
	text := fmt.Sprintf("%s of the plugin has programmed this pod, and this is %s", by, thisVersion())
	return text, nil
}
