package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/integration/samples"
	"github.com/tproxy-cni/tproxy-cni/integration/traffic"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// site is a client, a node and a pod of one mode, with the applications and the sidecar.
type site struct {
	t    lab.TB
	mode string
	self string // our own binary, where every user can run it
	dir  string // files of the applications

	net     *lab.Net
	sidecar *lab.Proc
	log     *samples.Log // what it wrote
	apps    []*lab.Proc
	ghosts  int // namespaces of clients that vanish so far
}

// family is one IP family of a site.
type family struct {
	name     string
	pod      netip.Addr
	client   netip.Addr // of who binds none
	node     string
	sources  netip.Addr // the first of our clients'
	bits     int
	ghostNet string // of the network of ghosts number %d, with the host's part missing
}

var families = []family{
	{"IPv4", netip.MustParseAddr(lab.Pod4), netip.MustParseAddr(lab.Client4), lab.Node4, netip.MustParseAddr("192.168.1.10"), 24, "10.9.%d."},
	{"IPv6", netip.MustParseAddr(lab.Pod6), netip.MustParseAddr(lab.Client6), lab.Node6, netip.MustParseAddr("fd00:1::10"), 64, "fd00:9:%x::"},
}

// sourcesEach is the number of addresses of each kind of client: enough that none of
// their ports comes again within TIME_WAIT, and a prime; see package traffic.
const sourcesEach = 11

// sourcesOf are the addresses of a kind of client, in the order of kinds and, after them,
// of programs. No two kinds share one: in nat mode a port of a client is free for another
// port of the pod only once conntrack has forgotten it, see proxy/README.md.
func (f family) sourcesOf(kind int) (all []netip.Addr) {
	a := f.sources
	for range kind * sourcesEach {
		a = a.Next()
	}
	for ; len(all) < sourcesEach; a = a.Next() {
		all = append(all, a)
	}
	return all
}

const (
	ourPort    = 8080
	appUID     = 1000
	mostGhosts = 200 // networks
)

var app = lab.User{UID: appUID, NoNewPrivs: true}

// newSite attaches a pod by cnitool, as a runtime does, and starts everything in it.
func newSite(t lab.TB, mode, bin, users, dir string) *site {
	s := &site{t: t, mode: mode, self: filepath.Join(users, "soak"), dir: dir, log: &samples.Log{}}
	cni := lab.NewCNI(t, lab.Conflist{Chained: []any{map[string]any{
		"type": contract.PluginType, "capabilities": map[string]bool{contract.AnnotationsCapability: true},
	}}}, bin, filepath.Join(bin, "upstream"))
	s.net = lab.NewNet(t)
	s.net.Pod.Up()
	lab.Attachment{
		CNI: cni, Node: s.net.Node, Pod: s.net.Pod,
		Capabilities: map[string]any{contract.AnnotationsCapability: map[string]string{contract.AnnotationPrefix + "mode": mode}},
	}.Add()
	for _, f := range families {
		for kind := range len(kinds) + len(programs) {
			for _, a := range f.sourcesOf(kind) {
				s.net.Client.Addr("eth0", fmt.Sprintf("%s/%d", a, f.bits))
			}
		}
		// Who binds no address has one that is nobody else's.
		s.net.Client.Run("ip", "route", "replace", "default", "via", f.node, "src", f.client.String())
	}
	// What is sent to a client that has vanished is given up after 100 seconds, not after
	// 15 minutes: proxy/README.md.
	s.net.Pod.Sysctl("net.ipv4.tcp_retries2", "8")
	s.startApps()
	s.startSidecar(filepath.Join(users, "tproxy-proxy"))
	return s
}

// startSidecar starts it as in a pod, with the log of production.
func (s *site) startSidecar(program string) {
	user := lab.User{UID: contract.ProxyUID, NoNewPrivs: true}
	if s.mode == contract.ModeTProxy {
		user.Caps = []string{"net_raw"}
	}
	cmd := command(user.Args(program, "--mode", s.mode, "--log-format", "json")...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	s.sidecar = s.net.Pod.StartCmd(cmd).WaitListen(contract.ProxyPort, contract.AdminPort)
	lab.Eventually(s.t, s.mode+": sidecar ready", func() error {
		now, err := s.scrape()
		if err == nil && now["ready"] != 1 {
			err = fmt.Errorf("not ready: %s", s.log.Other())
		}
		return err
	})
}

// startApp starts an application, which must outlive the soak.
func (s *site) startApp(env []string, ports []int, args ...string) {
	cmd := command(app.Args(args...)...)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Dir = s.dir
	s.apps = append(s.apps, s.net.Pod.StartCmd(cmd).WaitListen(ports...))
}

func (s *site) startApps() {
	s.startApp([]string{traffic.Quietly}, []int{ourPort}, s.self, "serve", strconv.Itoa(ourPort))
	s.startRealApps()
}

// appsLive fails if an application has ended; what it wrote says why.
func (s *site) appsLive() error {
	for _, p := range append([]*lab.Proc{s.sidecar}, s.apps...) {
		select {
		case <-p.Done():
			return fmt.Errorf("%s mode: a program in the pod has ended: %s", s.mode, strings.TrimSpace(p.Output()+s.log.Other()))
		default:
		}
	}
	return nil
}

// scrape reads the sidecar's metrics.
func (s *site) scrape() (samples.Samples, error) {
	_, text, err := s.net.Node.Get(fmt.Sprintf("http://%s/metrics", netip.AddrPortFrom(families[0].pod, contract.AdminPort)))
	if err != nil {
		return nil, err
	}
	return samples.Read(text)
}

// sockets counts the pod's TCP sockets of both families, those in TIME_WAIT aside.
func (s *site) sockets() (n int, err error) {
	err = s.net.Pod.Do(func() error {
		fs, err := procfs.NewFS("/proc/thread-self")
		if err != nil {
			return err
		}
		for _, read := range []func() (*procfs.NetSockstat, error){fs.NetSockstat, fs.NetSockstat6} {
			stat, err := read()
			if err != nil {
				return err
			}
			for _, p := range stat.Protocols {
				if strings.HasPrefix(p.Protocol, "TCP") {
					n += p.InUse
				}
			}
		}
		return nil
	})
	return n, err
}
