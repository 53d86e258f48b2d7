// Command table makes one empty nftables table in the network namespace CNI_NETNS:
// the least that a CNI plugin in Go can do with nftables.
package main

import (
	"fmt"
	"os"

	"github.com/google/nftables"
)

func main() {
	if err := run(os.Getenv("CNI_NETNS"), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(netns, name string) error {
	ns, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	conn.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	return conn.Flush()
}
