package main

import (
	"io"
	"net"
	"os"
)

// lan is the process outside the nodes. It holds the network between them, and
// relays the machine's connections to the API server; fd 3 is the listener for these.
func lan() error {
	err := shell(
		"ip link set lo up",
		"ip link add br0 type bridge",
		"ip addr add 172.30.0.254/24 dev br0",
		"ip addr add fd00:30::254/64 dev br0 nodad",
		"ip link set br0 up",
	)
	if err != nil {
		return err
	}
	ln, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	for {
		in, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", net.JoinHostPort(nodeIP(1), apiPort))
			if err != nil {
				return // the client sees a closed connection and tries again
			}
			defer out.Close()
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}
