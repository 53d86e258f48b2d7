package redirect

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/google/nftables"
	mnl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// tableFamilies are the families of our tables, with the tables' names as nft
// shows them.
var tableFamilies = []struct {
	id   nftables.TableFamily
	name string
}{
	{nftables.TableFamilyINet, "inet " + contract.Table},
	{nftables.TableFamilyNetdev, "netdev " + contract.Table},
}

// ownSets hold the pod's addresses at ADD, addressSets also those learned
// later; their elements are checkOwn's business.
var (
	ownSets     = []string{"own4", "own6"}
	addressSets = append(ownSets, "later4")
)

// tableState is a table as the kernel shows it: opaque, but equal for equal
// tables of one kernel.
type tableState struct {
	sets   map[string]string // by name; the elements of constant sets
	chains map[string]chainState
}

type chainState struct {
	hook  string
	rules []string
}

func (t tableState) setNames() []string   { return slices.Sorted(maps.Keys(t.sets)) }
func (t tableState) chainNames() []string { return slices.Sorted(maps.Keys(t.chains)) }

// readTables reads our tables, by the name that tableFamilies gives them.
func (p *pod) readTables() (map[string]tableState, error) {
	raw, err := mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(p.ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer raw.Close()

	out := map[string]tableState{}
	for _, f := range tableFamilies {
		there, err := p.hasTable(f.id)
		if err != nil {
			return nil, err
		}
		if !there {
			continue
		}
		state := tableState{map[string]string{}, map[string]chainState{}}
		if err := readChains(raw, f.id, state.chains); err != nil {
			return nil, fmt.Errorf("read table %s: %w", f.name, err)
		}
		if err := p.readSets(f.id, state.sets); err != nil {
			return nil, fmt.Errorf("read table %s: %w", f.name, err)
		}
		out[f.name] = state
	}
	return out, nil
}

func (p *pod) readSets(family nftables.TableFamily, into map[string]string) error {
	list, err := p.nft.GetSets(&nftables.Table{Name: contract.Table, Family: family})
	if err != nil {
		return err
	}
	for _, s := range list {
		into[s.Name] = ""
		if s.Dynamic || slices.Contains(ownSets, s.Name) {
			continue
		}
		elements, err := p.nft.GetSetElements(s)
		if err != nil {
			return err
		}
		var keys []string
		for _, e := range elements {
			keys = append(keys, fmt.Sprintf("%x %v", e.Key, e.IntervalEnd))
		}
		slices.Sort(keys)
		into[s.Name] = strings.Join(keys, ",")
	}
	return nil
}

// readChains reads chains and rules as raw attributes, because the nftables
// library parses neither every expression that we use nor a chain's device.
func readChains(conn *mnl.Conn, family nftables.TableFamily, into map[string]chainState) error {
	err := dump(conn, family, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) {
		name := cString(attrs[unix.NFTA_CHAIN_NAME])
		hook := fmt.Sprintf("%x %x %x", attrs[unix.NFTA_CHAIN_TYPE], attrs[unix.NFTA_CHAIN_HOOK], attrs[unix.NFTA_CHAIN_POLICY])
		into[name] = chainState{hook: hook}
	})
	if err != nil {
		return err
	}
	return dump(conn, family, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE, func(attrs map[uint16][]byte) {
		name := cString(attrs[unix.NFTA_RULE_CHAIN])
		c := into[name]
		c.rules = append(c.rules, string(attrs[unix.NFTA_RULE_EXPRESSIONS]))
		into[name] = c
	})
}

// device is the interface that the namespace has been programmed for, as its
// netdev chain knows it; empty where there is none or the interface is gone.
func (p *pod) device() (name string, err error) {
	raw, err := mnl.Dial(unix.NETLINK_NETFILTER, &mnl.Config{NetNS: int(p.ns.Fd())})
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	defer raw.Close()
	err = dump(raw, nftables.TableFamilyNetdev, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE, func(attrs map[uint16][]byte) {
		hook, err := mnl.UnmarshalAttributes(attrs[unix.NFTA_CHAIN_HOOK])
		if err != nil {
			return // a chain without a hook
		}
		for _, a := range hook {
			if a.Type == unix.NFTA_HOOK_DEV {
				name = cString(a.Data)
			}
		}
	})
	if err != nil || name == "" {
		return "", wrap("read the device of table netdev "+contract.Table, err)
	}
	if _, err := p.link.LinkByName(name); err != nil {
		return "", nil
	}
	return name, nil
}

// dump calls each with the attributes of every object of our table. tableAttr
// is the attribute in which such an object names its table.
func dump(conn *mnl.Conn, family nftables.TableFamily, message int, tableAttr uint16, each func(map[uint16][]byte)) error {
	request := mnl.Message{
		Header: mnl.Header{
			Type:  mnl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: mnl.Request | mnl.Dump,
		},
		Data: []byte{byte(family), unix.NFNETLINK_V0, 0, 0}, // struct nfgenmsg
	}
	replies, err := conn.Execute(request)
	if err != nil {
		return err
	}
	for _, m := range replies {
		list, err := mnl.UnmarshalAttributes(m.Data[4:])
		if err != nil {
			return err
		}
		attrs := map[uint16][]byte{}
		for _, a := range list {
			attrs[a.Type&^uint16(mnl.Nested)] = a.Data
		}
		if cString(attrs[tableAttr]) == contract.Table && m.Data[0] == byte(family) {
			each(attrs)
		}
	}
	return nil
}

func cString(b []byte) string { return strings.TrimRight(string(b), "\x00") }

// scratchPeer is the other end of the scratch namespace's cable.
const scratchPeer = "scratch"

// scratch calls f with the path of a new network namespace that has lo and an
// interface of that name, and is gone afterwards. It needs CAP_SYS_ADMIN.
func scratch(ifname string, f func(path string) error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread dies with the goroutine, and the
		// namespace with the thread.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: scratchPeer}
			if link.Name = ifname; ifname == link.PeerName {
				link.PeerName += "1"
			}
			if err := netlink.LinkAdd(link); err != nil {
				return fmt.Errorf("add interface %s: %w", ifname, err)
			}
			return f(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
		}()
	}()
	return <-done
}
