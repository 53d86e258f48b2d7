package intercept

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// TestTransact: wherever in a transaction the kernel refuses a message, it is
// told, and nothing of the rest is done.
func TestTransact(t *testing.T) {
	path := newPod(t).Path()
	mine := &nftables.Table{Name: "mine", Family: nftables.TableFamilyINet}
	add := func(c *nftables.Conn) { c.AddTable(mine) }
	good := func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Name: "good", Table: mine}) }
	bad := func(c *nftables.Conn) { c.DelChain(&nftables.Chain{Name: "absent", Table: mine}) }
	none := func(c *nftables.Conn) { c.DelTable(&nftables.Table{Name: "absent", Family: nftables.TableFamilyINet}) }
	for _, tt := range []struct {
		name string
		do   []func(*nftables.Conn)
		want error
	}{
		{"first", []func(*nftables.Conn){none, add, good}, unix.ENOENT},
		{"middle", []func(*nftables.Conn){add, bad, good}, unix.ENOENT},
		{"last", []func(*nftables.Conn){add, good, bad}, unix.ENOENT},
		{"several", []func(*nftables.Conn){none, add, bad, bad}, unix.ENOENT},
		{"all good", []func(*nftables.Conn){add, good}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			err = p.transact(func(c *nftables.Conn) error {
				for _, do := range tt.do {
					do(c)
				}
				return nil
			})
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			tables, err := library(t, p).ListTables()
			if err != nil {
				t.Fatal(err)
			}
			done := slices.ContainsFunc(tables, func(have *nftables.Table) bool { return have.Name == mine.Name })
			if done != (tt.want == nil) {
				t.Errorf("the table is there: %v", done)
			}
			// What the kernel said of the rest is not taken for an answer to the next.
			for range 2 {
				if err := p.transact(func(c *nftables.Conn) error { add(c); return nil }); err != nil {
					t.Errorf("the next transaction: %v", err)
				}
				if _, err := p.hasTable(nftables.TableFamilyINet); err != nil {
					t.Errorf("the next list: %v", err)
				}
			}
			if err := p.transact(func(c *nftables.Conn) error { c.DelTable(mine); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
}

func library(t *testing.T, p *pod) *nftables.Conn {
	t.Helper()
	nft, err := p.library()
	if err != nil {
		t.Fatal(err)
	}
	return nft
}
