// Command cluster is a Kubernetes of two nodes on this machine, for the
// end-to-end tests: the real programs, built from their Go modules, in network
// and mount namespaces of their own. Nothing of it reaches the machine's own
// network, and nothing reaches out.
//
//	cluster up [kubeadm|k3s]   build what is missing, start what does not run, wait for Ready
//	cluster down               end everything, remove every trace
//	cluster nx N COMMAND...    run COMMAND on node N; N = 0 is a machine beside the nodes
//
//	            beside the nodes (0)
//	┌────────────────── br0 ───────────────────┐
//	│          172.30.0.254  fd00:30::254      │
//	└──────┬────────────────────────────┬──────┘
//	  eth0 │ .11 ::11              eth0 │ .12 ::12
//	┌──────┴──────────┐          ┌──────┴──────────┐
//	│ node1           │          │ node2           │
//	│ pods 10.244.1.x │          │ pods 10.244.2.x │
//	│ fd00:244:1::x   │          │ fd00:244:2::x   │
//	└─────────────────┘          └─────────────────┘
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

const usage = "usage: cluster up [kubeadm|k3s] | down | nx N COMMAND [ARGUMENT]"

// run does one verb, or is one of the programs that nodes have under other
// names. What the usage leaves out is for the processes that up starts.
func run(args []string) error {
	switch filepath.Base(args[0]) {
	case "base-cni":
		return baseCNI()
	case "flannel":
		return flannel()
	}
	if len(args) < 2 {
		return errors.New(usage)
	}
	switch verb, args := args[1], args[2:]; verb {
	case "up":
		err := up(append(args, "kubeadm")[0])
		if err == nil {
			fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", kubeconfig, binDir)
		}
		return err
	case "down":
		return down()
	case "nx":
		return onNode(args, enter)
	case "join":
		return onNode(args, join)
	case "lan":
		return lan()
	case "node":
		return onNode(args, node)
	default:
		return errors.New(usage)
	}
}

// onNode reads the node's number.
func onNode(args []string, f func(n int, args []string) error) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 0 || n > nodes {
		return fmt.Errorf("no node %q", args[0])
	}
	return f(n, args[1:])
}
