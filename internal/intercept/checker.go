package intercept

import (
	"encoding/binary"
	"fmt"
	"sync"

	mnl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// mostWanted bounds what a Checker remembers; a Config takes some 20 kB. Pods
// whose settings differ are few, and more of them cost time, not memory.
const mostWanted = 32

// Checker checks many pods, or one many times: what Apply programs for a Config
// is asked of the kernel only once, which is most of the cost of a Check. The
// zero value is ready. Its methods may be called from several goroutines.
type Checker struct {
	mu   sync.Mutex
	want map[string]wanted // by the Config's text
}

// wanted is what Apply programs for a Config, as far as only the kernel can say it.
type wanted struct {
	tables  map[string]tableState
	guard   Guarded
	filters []filter // at the interface's egress
}

// wanted is what Apply programs for c, with the best guard that there is: whether
// that is enough for c is checkGuard's business.
func (k *Checker) wanted(c Config) (wanted, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.PacketGuard = contract.PacketGuardBestEffort
	key := fmt.Sprintf("%+v", c)
	if want, ok := k.want[key]; ok {
		return want, nil
	}
	var want wanted
	err := scratch(c.Interface, func(path string) (err error) {
		if want.guard, err = ApplyGuarded(path, c); err != nil {
			return err
		}
		s, err := open(path)
		if err != nil {
			return err
		}
		defer s.close()
		if want.tables, err = s.readTables(); err != nil {
			return err
		}
		have, err := s.filters(c.Interface)
		want.filters = have.egress
		return err
	})
	if err != nil {
		return want, fmt.Errorf("program a scratch namespace to compare with: %w", err)
	}
	if k.want == nil || len(k.want) >= mostWanted {
		k.want = map[string]wanted{}
	}
	k.want[key] = want
	return want, nil
}

// mostSkips is how many checks in a row leave nftables unread: whatever changes it
// without a new generation is found after these.
const mostSkips = 20

// Seen is what CheckAgain remembers of a namespace.
type Seen struct {
	at      generation
	right   bool // nftables was as it should be
	skipped int  // checks since
}

// generation stands for a state of a namespace's nftables and of all that decides
// whether that is right: each transaction of the kernel's has the next number, the
// sets of addresses follow the interfaces', and a netdev chain ends with its
// interface. The tables of iptables-legacy have no such number.
type generation struct {
	number uint32
	link   int // the interface's index; 0 if it is gone
	addrs  string
	legacy bool // there are tables of iptables-legacy
}

// same reports whether nftables need not be read again.
func (s *Seen) same(now generation) bool {
	s.skipped++
	return s.right && s.at == now && !now.legacy && s.skipped <= mostSkips
}

func (p *pod) generation(ifname string) (g generation, err error) {
	replies, err := p.raw.Execute(mnl.Message{
		Header: mnl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: mnl.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	})
	if err != nil {
		return g, wrap("read the generation of nftables", err)
	}
	for _, m := range replies {
		if id := nested(m.Data[4:])[unix.NFTA_GEN_ID]; len(id) == 4 {
			g.number = binary.BigEndian.Uint32(id)
		}
	}
	if link, err := p.link.LinkByName(ifname); err == nil {
		g.link = link.Attrs().Index
	}
	own, err := p.addresses()
	if err != nil {
		return g, err
	}
	g.addrs = fmt.Sprint(own)
	g.legacy, err = p.hasLegacy()
	return g, err
}
