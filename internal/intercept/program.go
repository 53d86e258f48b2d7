package intercept

import (
	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// program replaces both tables by these in one transaction. The counters go on from
// where they are, but for what is counted while the transaction is on its way.
func (p *pod) program(tables []table) error {
	for _, t := range tables {
		if !p.ready {
			break
		}
		have, err := p.readCounters(t.Family)
		if err != nil {
			return wrap("read counters", err)
		}
		for _, c := range t.counters {
			c.Packets, c.Bytes = have[c.Name].Packets, have[c.Name].Bytes
		}
	}
	return p.transact(func(conn *nftables.Conn) error {
		for _, t := range tables {
			if err := t.add(conn); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropTables deletes both tables in one transaction.
func (p *pod) dropTables() error {
	return wrap("delete nftables tables", p.transact(func(conn *nftables.Conn) error {
		for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyNetdev} {
			t := &nftables.Table{Name: contract.Table, Family: f}
			conn.AddTable(t) // so that deleting it succeeds in any case
			conn.DelTable(t)
		}
		return nil
	}))
}

// add replaces one table.
func (t table) add(conn *nftables.Conn) error {
	// Adding before deleting makes the deletion succeed on the first run.
	conn.AddTable(t.Table)
	conn.DelTable(t.Table)
	conn.AddTable(t.Table)
	for _, c := range t.counters {
		conn.AddObj(c)
	}
	for _, s := range t.sets {
		if err := conn.AddSet(s.Set, s.elements); err != nil {
			return err
		}
	}
	chains := make([]*nftables.Chain, len(t.chains))
	for i, ch := range t.chains {
		chains[i] = ch.in(t)
		conn.AddChain(chains[i])
	}
	for i, ch := range t.chains {
		for _, r := range ch.rules {
			conn.AddRule(r.in(chains[i]))
		}
	}
	return nil
}

// in is ch as the library has it.
func (ch chain) in(t table) *nftables.Chain {
	c := &nftables.Chain{Table: t.Table, Name: ch.name}
	if ch.hook != nil {
		policy := nftables.ChainPolicyAccept
		c.Type, c.Hooknum, c.Priority, c.Device, c.Policy = ch.kind, ch.hook, ch.priority, ch.device, &policy
	}
	return c
}

// in is r as the library has it, with what it does as its comment.
func (r rule) in(c *nftables.Chain) *nftables.Rule {
	return &nftables.Rule{
		Table: c.Table, Chain: c, Exprs: r.expr,
		UserData: userdata.AppendString(nil, userdata.TypeComment, r.does),
	}
}
