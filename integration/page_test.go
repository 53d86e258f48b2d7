package integration

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// TestPage: in a browser, as behind kubectl port-forward, the page shows a real
// connection, follows it, and says when the sidecar is gone. It fits a phone.
func TestPage(t *testing.T) {
	lab.Need(t, "socat")
	inModes(t, setup{}, func(t *testing.T, p *pod) {
		p.Pod.StartAs(app, "socat", "TCP6-LISTEN:8080,ipv6only=0,reuseaddr,fork", "PIPE").WaitListen(8080)
		b := browse(t, p.Pod, "--host-resolver-rules=MAP evil.example 127.0.0.1")
		b.screen(1200, 900, "light")
		b.open(fmt.Sprintf("http://localhost:%d/", contract.AdminPort))
		b.await(`document.getElementById("state").textContent`, "ready")
		b.await(`document.getElementById("live").tBodies[0].textContent`, "none")
		p.inFamilies(t, func(t *testing.T, f family) {
			conn := p.dial(t, f, 8080)
			echo(t, conn, strings.Repeat("x", 4321))
			row := fmt.Sprintf(`[...document.querySelectorAll("#live tbody tr")].map(r => r.innerText).find(r => r.startsWith(%q)) || "none"`, conn.LocalAddr())
			b.await(row, addr(f.pod, 8080))
			b.await(row, "4.3 kB\t4.3 kB")
			b.await(row, "relaying")
			echo(t, conn, strings.Repeat("x", 2_000_000))
			b.await(row, "2.0 MB\t2.0 MB")
			b.await(`document.querySelectorAll("#bytes path.line").length`, "2")
			conn.Close()
			b.await(row, "none")
		})
		b.await(`document.getElementById("endings").innerText`, "closed\t2")
		b.await(`document.getElementById("queues").innerText`, "8080")
		b.await(`document.getElementById("kernel").innerText`, "table 29808")
		for _, width := range []int{320, 390, 1200} {
			b.screen(width, 900, "dark")
			b.await(`document.documentElement.scrollWidth <= innerWidth`, "true")
			b.picture(fmt.Sprintf("%s-%d", p.mode, width))
		}
		if says := b.complaints(); len(says) > 0 {
			t.Errorf("the browser says %q", says)
		}
		p.sidecar.Kill()
		b.await(`document.getElementById("trouble").textContent`, "does not answer")
		p.start()
		b.await(`document.getElementById("state").textContent`, "ready")

		// A web site whose name suddenly is a loopback address, and a script that is
		// put into the page.
		b.open(fmt.Sprintf("http://evil.example:%d/status", contract.AdminPort))
		b.await(`document.body.textContent`, "only by the name localhost")
		b.open(fmt.Sprintf("http://127.0.0.1:%d/", contract.AdminPort))
		b.await(`document.getElementById("state").textContent`, "ready")
		b.await(`document.body.innerHTML = "<img src=x onerror=alert(1)>"`, "TrustedHTML")
		b.await(`document.body.append(Object.assign(document.createElement("script"), {textContent: "document.title = 'pwned'"})), document.title`, "TrustedScript")
	})
}

// echo sends a text to an application that returns it.
func echo(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	go func() { _, _ = conn.Write([]byte(text)) }()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("%d bytes came back: %v", len(text), err)
	}
}
