// Command box is the tests' program in pods: it waits, serves, dials and generates
// load.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	verb, args := "pause", os.Args[1:]
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	f, ok := map[string]func([]string) error{"pause": pause, "serve": serve, "dial": dial, "hold": hold, "load": load}[verb]
	if !ok {
		fmt.Fprintln(os.Stderr, "box: no verb", verb)
		os.Exit(2)
	}
	if err := f(args); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

// pause waits for SIGTERM.
func pause([]string) error {
	<-ended()
	return nil
}

func ended() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

// serve listens on each address. It logs each client, sends it its address, and echoes
// its lines until it closes. At SIGTERM it closes its listeners and ends with the last
// connection.
func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	mptcp := fs.Bool("mptcp", false, "listen with MPTCP")
	network := fs.String("net", "tcp", "tcp, tcp4 or tcp6")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var all sync.WaitGroup
	var listeners []net.Listener
	for _, addr := range fs.Args() {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(*mptcp)
		ln, err := lc.Listen(context.Background(), *network, os.ExpandEnv(addr))
		if err != nil {
			return err
		}
		fmt.Println("listening", ln.Addr(), protocol(ln.(*net.TCPListener)))
		listeners = append(listeners, ln)
		all.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				all.Go(func() { greet(c) })
			}
		})
	}
	<-ended()
	for _, ln := range listeners {
		ln.Close()
	}
	all.Wait()
	return nil
}

// protocol returns a listener's protocol; a kernel without MPTCP gives TCP.
func protocol(ln *net.TCPListener) string {
	const soProtocol, mptcp = 38, 262
	raw, err := ln.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var n int
	_ = raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soProtocol) })
	if n == mptcp && err == nil {
		return "MPTCP"
	}
	return "TCP"
}

func greet(c net.Conn) {
	defer c.Close()
	host, _ := os.Hostname()
	fmt.Printf("accepted %s %s\n", c.RemoteAddr(), c.LocalAddr())
	fmt.Fprintf(c, "%s %s %s\n", c.RemoteAddr(), c.LocalAddr(), host)
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		fmt.Fprintln(c, lines.Text())
	}
}

// hold keeps a connection to each address open and sends a line over each ten times a
// second, which must come back. At SIGTERM it half-closes and expects the server's end
// of the stream.
func hold(args []string) error {
	end := ended()
	type held struct {
		*net.TCPConn
		lines *bufio.Scanner
	}
	var conns []held
	for _, addr := range args {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		conns = append(conns, held{c.(*net.TCPConn), bufio.NewScanner(c)})
		conns[len(conns)-1].lines.Scan() // the greeting
	}
	tick := time.NewTicker(time.Second / 10)
	for round := 1; ; round++ {
		select {
		case <-tick.C:
		case <-end:
			for _, c := range conns {
				_ = c.CloseWrite()
				if c.lines.Scan() || c.lines.Err() != nil {
					return fmt.Errorf("%s: at the end %q, %v", c.RemoteAddr(), c.lines.Text(), c.lines.Err())
				}
			}
			fmt.Println("all ended")
			return nil
		}
		for _, c := range conns {
			line := fmt.Sprint("round ", round)
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := fmt.Fprintln(c, line); err != nil {
				return err
			}
			if !c.lines.Scan() || c.lines.Text() != line {
				return fmt.Errorf("%s: sent %q, got %q, %v", c.RemoteAddr(), line, c.lines.Text(), c.lines.Err())
			}
		}
		fmt.Println("round", round)
	}
}

// dial connects to each address and prints a line for each: the address, the local
// address, and the greeting; or the address and the error.
func dial(args []string) error {
	fs := flag.NewFlagSet("dial", flag.ContinueOnError)
	request := fs.String("send", "", "`text` to send first, with \\r and \\n")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, addr := range fs.Args() {
		own, greeting, err := once(5*time.Second, addr, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(*request))
		if err != nil {
			fmt.Println(addr, "error", err)
		} else {
			fmt.Println(addr, own, greeting)
		}
	}
	return nil
}

// load makes connections to each address in turn, at a fixed rate until SIGTERM, reads
// each greeting, and prints how many failed and why. Its timeout is long: a slow
// connection has not failed.
func load(args []string) error {
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	rate := fs.Int("rate", 200, "connections a second")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		good     int
		failed   int
		slowest  time.Duration
		servers  = map[string]bool{}
		end      = ended()
		interval = time.NewTicker(time.Second / time.Duration(*rate))
	)
	for i := 0; ; i++ {
		select {
		case <-interval.C:
			wg.Go(func() {
				began, addr := time.Now(), fs.Arg(i%fs.NArg())
				own, greeting, err := once(time.Minute, addr, "")
				mu.Lock()
				defer mu.Unlock()
				slowest = max(slowest, time.Since(began))
				if err != nil {
					failed++
					fmt.Printf("%s to %s from %v: %v\n", began.Format(time.StampMicro), addr, own, err)
					return
				}
				good++
				words := strings.Fields(greeting)
				servers[words[len(words)-1]] = true
			})
		case <-end:
			wg.Wait()
			fmt.Printf("good %d servers %d failed %d slowest %v\n", good, len(servers), failed, slowest.Round(time.Millisecond))
			return nil
		}
	}
}

// once makes one connection and returns its local address and the greeting.
func once(patience time.Duration, addr, request string) (own net.Addr, greeting string, err error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, "", errors.Unwrap(err) // without the addresses, which are known
	}
	defer c.Close()
	own = c.LocalAddr()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		return own, "", err
	}
	greeting, err = bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return own, "", fmt.Errorf("no greeting: %w", err)
	}
	return own, strings.TrimSpace(greeting), nil
}
