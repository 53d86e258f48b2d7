// Command box is the test's own program in pods: it waits, serves, dials and
// makes load.
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
	f, ok := map[string]func([]string) error{"pause": pause, "serve": serve, "dial": dial, "load": load}[verb]
	if !ok {
		fmt.Fprintln(os.Stderr, "box: no verb", verb)
		os.Exit(2)
	}
	if err := f(args); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

// pause waits for the end.
func pause([]string) error {
	<-ended()
	return nil
}

func ended() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	return c
}

// serve listens on each address, logs who connects, tells them, and echoes
// their lines until they close.
func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	mptcp := fs.Bool("mptcp", false, "listen with MPTCP")
	network := fs.String("net", "tcp", "tcp, tcp4 or tcp6")
	linger := fs.Duration("linger", 0, "go on accepting for so long after SIGTERM")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, addr := range fs.Args() {
		lc := net.ListenConfig{}
		lc.SetMultipathTCP(*mptcp)
		ln, err := lc.Listen(context.Background(), *network, os.ExpandEnv(addr))
		if err != nil {
			return err
		}
		fmt.Println("listening", ln.Addr())
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go greet(c)
			}
		}()
	}
	<-ended()
	time.Sleep(*linger)
	return nil
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

// dial connects to each address and prints a line for each: the address, its
// own, and the greeting; or the address and the error.
func dial(args []string) error {
	fs := flag.NewFlagSet("dial", flag.ContinueOnError)
	request := fs.String("send", "", "`text` to send first, with \\r and \\n")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, addr := range fs.Args() {
		own, greeting, err := once(addr, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(*request))
		if err != nil {
			fmt.Println(addr, "error", err)
		} else {
			fmt.Println(addr, own, greeting)
		}
	}
	return nil
}

// load makes connections to an address at a rate until it is told to end, has
// each greeted, and prints how many did not work and why.
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
		servers  = map[string]bool{}
		faults   = map[string]int{}
		end      = ended()
		interval = time.NewTicker(time.Second / time.Duration(*rate))
	)
	for {
		select {
		case <-interval.C:
			wg.Go(func() {
				_, greeting, err := once(fs.Arg(0), "")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					faults[err.Error()]++
					return
				}
				good++
				words := strings.Fields(greeting)
				servers[words[len(words)-1]] = true
			})
		case <-end:
			wg.Wait()
			fmt.Printf("good %d servers %d failed %d\n", good, len(servers), failed)
			for text, n := range faults {
				fmt.Println(n, text)
			}
			return nil
		}
	}
}

// once is one connection: its own address, and what the server says.
func once(addr, request string) (own net.Addr, greeting string, err error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, "", errors.Unwrap(err) // without the addresses, so that equal faults read equal
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		return nil, "", err
	}
	greeting, err = bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return nil, "", fmt.Errorf("no greeting: %w", err)
	}
	return c.LocalAddr(), strings.TrimSpace(greeting), nil
}
