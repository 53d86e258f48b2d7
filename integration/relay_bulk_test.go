package integration

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
)

// TestBulk: 2 GiB through one connection to Debian's nc.
func TestBulk(t *testing.T) {
	lab.Need(t, "nc")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		const port = 9000
		f := v4
		sum := sha256.New()
		receive := command(t, app.Args("nc", "-ln", f.any, fmt.Sprint(port))...)
		receive.Stdout = sum
		server := p.Pod.StartCmd(receive).WaitListen(port)

		data, sent := noise(int64(lab.Count(2<<30)), 1)
		client := p.dial(t, f, port).(*net.TCPConn)
		_, err := io.CopyBuffer(struct{ io.Writer }{client}, data, make([]byte, 1<<20))
		if err := errors.Join(err, client.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		if err := server.Wait(); err != nil {
			t.Errorf("the application's nc ended with %v", err)
		}
		if !bytes.Equal(sum.Sum(nil), sent.Sum(nil)) {
			t.Error("the application got other bytes")
		}
	})
}

// command is exec.Command with the search of lab.Look.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := lab.Look(args[0])
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args[1:]...)
}

// noise returns n pseudo-random bytes, and their hash once they have been read.
func noise(n int64, seed byte) (io.Reader, hash.Hash) {
	block, err := aes.NewCipher(bytes.Repeat([]byte{seed}, 16))
	if err != nil {
		panic(err)
	}
	stream := cipher.StreamReader{S: cipher.NewCTR(block, make([]byte, 16)), R: zeros{}}
	sum := sha256.New()
	return io.TeeReader(io.LimitReader(stream, n), sum), sum
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestParallelTransfers: many connections with random sizes in both directions at once;
// each side half-closes when it has sent all.
func TestParallelTransfers(t *testing.T) {
	const connections = 64
	most := int64(lab.Count(4 << 20))
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		var all sync.WaitGroup
		for i := range connections {
			f := p.fams()[i%2]
			client, application := p.connect(t, f, 9000)
			for _, way := range [][2]*net.TCPConn{{client, application}, {application, client}} {
				sent, received := sha256.New(), sha256.New()
				from, to, size := way[0], way[1], rand.Int64N(most)
				var pair sync.WaitGroup
				pair.Go(func() {
					data, sum := noise(size, byte(i))
					_, err := io.Copy(from, data)
					if err := errors.Join(err, from.CloseWrite()); err != nil {
						t.Errorf("connection %d: send %d bytes: %v", i, size, err)
					}
					sent = sum
				})
				pair.Go(func() {
					if n, err := io.Copy(received, to); err != nil || n != size {
						t.Errorf("connection %d: got %d bytes of %d and %v", i, n, size, err)
					}
				})
				all.Go(func() {
					pair.Wait()
					if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
						t.Errorf("connection %d: other bytes", i)
					}
				})
			}
		}
		all.Wait()
	})
}
