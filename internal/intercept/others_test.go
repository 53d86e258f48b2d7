package intercept

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/tproxy-cni/tproxy-cni/integration/lab"
	"github.com/tproxy-cni/tproxy-cni/internal/contract"
)

// istio and linkerd are what their init containers do for inbound connections, and
// for outbound ones, which is no one's business here.
const istio = `
	-t nat -N ISTIO_INBOUND
	-t nat -N ISTIO_REDIRECT
	-t nat -N ISTIO_IN_REDIRECT
	-t nat -N ISTIO_OUTPUT
	-t nat -A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
	-t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
	-t nat -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
	-t nat -A PREROUTING -p tcp -j ISTIO_INBOUND
	-t nat -A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
	-t nat -A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
	-t nat -A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
	-t nat -A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
	-t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
	-t nat -A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
	-t nat -A ISTIO_OUTPUT -j ISTIO_REDIRECT`

const linkerd = `
	-t nat -N PROXY_INIT_REDIRECT
	-t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,25,443 -j RETURN -m comment --comment proxy-init/ignore-port
	-t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143 -m comment --comment proxy-init/redirect-all
	-t nat -A PREROUTING -j PROXY_INIT_REDIRECT -m comment --comment proxy-init/install-proxy-init-prerouting`

// istioTProxy is istio's other way.
const istioTProxy = `
	-t mangle -N ISTIO_DIVERT
	-t mangle -N ISTIO_TPROXY
	-t mangle -A ISTIO_DIVERT -j MARK --set-mark 1337
	-t mangle -A ISTIO_DIVERT -j ACCEPT
	-t mangle -A ISTIO_TPROXY ! -d LOCALHOST -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006
	-t mangle -A PREROUTING -p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_DIVERT
	-t mangle -A PREROUTING -p tcp --dport 22 -j RETURN
	-t mangle -A PREROUTING -p tcp -j ISTIO_TPROXY`

// docker publishes a port of a container in the pod and filters.
const docker = `
	-t nat -N DOCKER
	-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
	-t nat -A DOCKER ! -i docker0 -p tcp --dport 8080 -j DNAT --to-destination CONTAINER
	-t nat -A POSTROUTING -p tcp -j MASQUERADE
	-t filter -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	-t filter -A INPUT -p tcp --dport 80 -j ACCEPT`

// behind are chains behind ours: a connection's NAT is set once, by the first.
const behind = `table inet late {
	chain filter { type filter hook prerouting priority -99; meta l4proto tcp tproxy to :9998 accept; }
	chain nat { type nat hook prerouting priority -99; meta l4proto tcp redirect to :9999; }; }`

// TestOthers: each rule of other software that takes the pod's connections is named,
// and none that does not.
func TestOthers(t *testing.T) {
	lab.Need(t, "iptables-nft-restore", "ip6tables-nft-restore", "iptables-legacy-restore", "ip6tables-legacy-restore")
	nft := func(rules string) func(*lab.NS) { return func(pod *lab.NS) { pod.Run("nft", rules) } }
	exempt := usual(t, contract.ModeNAT)
	exempt.ExcludePorts = []PortRange{{80, 80}, {8080, 8080}}
	for _, tt := range []struct {
		name   string
		config Config
		rules  func(*lab.NS)
		want   []string
	}{
		{"nothing", usual(t, contract.ModeNAT), func(*lab.NS) {}, nil},
		{"istio", usual(t, contract.ModeNAT), iptables("nft", istio), []string{
			"table ip nat, chain PREROUTING (priority -100), rule 1 of chain ISTIO_IN_REDIRECT redirects new connections but not to ports 15008, 15020-15021, 15090 to port 15006, as istio does",
			"table ip6 nat, chain PREROUTING (priority -100), rule 1 of chain ISTIO_IN_REDIRECT redirects new connections but not to ports 15008, 15020-15021, 15090 to port 15006, as istio does",
		}},
		{"linkerd", usual(t, contract.ModeTProxy), iptables("nft", linkerd), []string{
			"table ip nat, chain PREROUTING (priority -100), rule 2 of chain PROXY_INIT_REDIRECT redirects new connections but not to ports 25, 443, 4190-4191 to port 4143, as linkerd does",
			"table ip6 nat, chain PREROUTING (priority -100), rule 2 of chain PROXY_INIT_REDIRECT redirects new connections but not to ports 25, 443, 4190-4191 to port 4143, as linkerd does",
		}},
		{"istio with tproxy", usual(t, contract.ModeTProxy), iptables("nft", istioTProxy), []string{
			"table ip mangle, chain PREROUTING (priority -150), rule 1 of chain ISTIO_TPROXY gives new connections but not to port 22 to port 15006, as istio does",
			"table ip6 mangle, chain PREROUTING (priority -150), rule 1 of chain ISTIO_TPROXY gives new connections but not to port 22 to port 15006, as istio does",
		}},
		{"istio, legacy", usual(t, contract.ModeTProxy), iptables("legacy", istio), []string{
			"table ip nat of iptables-legacy, chain PREROUTING (priority -100), rule 1 of chain ISTIO_IN_REDIRECT redirects new connections but not to ports 15008, 15020-15021, 15090 to port 15006, as istio does",
			"table ip6 nat of iptables-legacy, chain PREROUTING (priority -100), rule 1 of chain ISTIO_IN_REDIRECT redirects new connections but not to ports 15008, 15020-15021, 15090 to port 15006, as istio does",
		}},
		{"linkerd, legacy", usual(t, contract.ModeNAT), iptables("legacy", linkerd), []string{
			"table ip nat of iptables-legacy, chain PREROUTING (priority -100), rule 2 of chain PROXY_INIT_REDIRECT redirects new connections but not to ports 25, 443, 4190-4191 to port 4143, as linkerd does",
			"table ip6 nat of iptables-legacy, chain PREROUTING (priority -100), rule 2 of chain PROXY_INIT_REDIRECT redirects new connections but not to ports 25, 443, 4190-4191 to port 4143, as linkerd does",
		}},
		{"istio with tproxy, legacy", usual(t, contract.ModeNAT), iptables("legacy", istioTProxy), []string{
			"table ip mangle of iptables-legacy, chain PREROUTING (priority -150), rule 1 of chain ISTIO_TPROXY gives new connections but not to port 22 to port 15006, as istio does",
			"table ip6 mangle of iptables-legacy, chain PREROUTING (priority -150), rule 1 of chain ISTIO_TPROXY gives new connections but not to port 22 to port 15006, as istio does",
		}},
		{"docker, legacy", usual(t, contract.ModeNAT), iptables("legacy", docker), nil},
		{"no takers, legacy", usual(t, contract.ModeNAT), iptables("legacy", `
			-t nat -N INPUT2
			-t nat -A PREROUTING -i net1 -p tcp -j REDIRECT --to-ports 15006
			-t nat -A PREROUTING -p udp -j REDIRECT --to-ports 15053
			-t nat -A PREROUTING -p tcp -d FOREIGN -j REDIRECT --to-ports 8080
			-t nat -A PREROUTING -p tcp --dport 80 -g INPUT2
			-t nat -A INPUT2 -j ACCEPT
			-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001`), nil},
		{"docker", usual(t, contract.ModeNAT), iptables("nft", docker), nil},
		{"outbound only", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001"), nil},
		{"UDP only", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A PREROUTING -p udp --dport 53 -j REDIRECT --to-ports 15053"), nil},
		{"another interface", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A PREROUTING -i net1 -p tcp -j REDIRECT --to-ports 15006"), nil},
		{"an address that is not the pod's", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A PREROUTING -p tcp -d FOREIGN --dport 80 -j REDIRECT --to-ports 8080"), nil},
		{"one port", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-ports 8080"), []string{
			"table ip nat, chain PREROUTING (priority -100), rule 1 redirects new connections to port 80 to port 8080",
			"table ip6 nat, chain PREROUTING (priority -100), rule 1 redirects new connections to port 80 to port 8080",
		}},
		{"one port, exempt", exempt, iptables("nft", "-t nat -A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-ports 8080"), nil},
		{"to the pod itself", usual(t, contract.ModeNAT), iptables("nft", "-t nat -A PREROUTING -p tcp --syn -j DNAT --to-destination OWN"), []string{
			"table ip nat, chain PREROUTING (priority -100), rule 1 redirects new connections to port 8080",
			"table ip6 nat, chain PREROUTING (priority -100), rule 1 redirects new connections to port 8080",
		}},
		{"nft, for both families", usual(t, contract.ModeNAT), nft(`table inet mesh { set skip { type inet_service; flags interval; elements = { 22, 8000-8010 }; }; chain in {
			type nat hook prerouting priority dstnat - 5; iifname "eth*" fib daddr type local tcp dport != @skip redirect to :9999; }; }`), []string{
			"table inet mesh, chain in (priority -105), rule 1 redirects new connections but not to ports 22, 8000-8010 to port 9999",
		}},
		{"nft, IPv6 alone", usual(t, contract.ModeTProxy), nft(`table inet mesh { chain in {
			type filter hook prerouting priority mangle - 1; meta nfproto ipv4 accept; ct state established,related accept; tcp dport { 80, 443 } tproxy to :9999 accept; }; }`), []string{
			"table inet mesh, chain in (priority -151), rule 3 gives new connections to ports 80, 443 to port 9999",
		}},
		{"nft, taken by nobody", usual(t, contract.ModeNAT), nft(`table ip nat { chain prerouting { type nat hook prerouting priority dstnat;
			iifname "eth0" tcp dport 80 dnat to 10.244.9.9:80; tcp flags & (syn | ack) == ack redirect to :1; ip protocol udp redirect; ip daddr 10.96.0.0/12 tcp dport 1-65535 redirect to :2; }
			chain unused { tcp dport 1-65535 redirect to :3; }; }`), nil},
		{"conditions that are not known", usual(t, contract.ModeNAT), nft(`table ip mesh { chain in { type nat hook prerouting priority dstnat - 1;
			tcp dport 8080 numgen inc mod 2 0 redirect to :9999; meta l4proto tcp socket wildcard 1 redirect to :9998; }; }`), []string{
			"table ip mesh, chain in (priority -101), rule 1 redirects new connections to port 8080 to port 9999",
			"table ip mesh, chain in (priority -101), rule 2 redirects new connections to port 9998",
		}},
		{"concatenations", usual(t, contract.ModeNAT), nft(`table ip mesh { chain in { type nat hook prerouting priority dstnat - 1;
			ip daddr . tcp dport { 10.1.0.2 . 8080 } redirect to :9999; tcp dport . ip daddr { 8080 . 10.1.0.2 } redirect to :9998; }; }`), []string{
			"table ip mesh, chain in (priority -101), rule 1 redirects new connections to port 9999",
			"table ip mesh, chain in (priority -101), rule 2 redirects new connections to port 9998",
		}},
		{"behind ours in nat mode", usual(t, contract.ModeNAT), nft(behind), []string{
			"table inet late, chain filter (priority -99), rule 1 gives new connections to port 9998",
			"table inet late, chain nat (priority -99), rule 1 redirects new connections to port 5001 to port 9999",
		}},
		{"behind ours in tproxy mode", usual(t, contract.ModeTProxy), nft(behind), []string{
			"table inet late, chain filter (priority -99), rule 1 gives new connections to port 9998",
			"table inet late, chain nat (priority -99), rule 1 redirects new connections to port 9999",
		}},
		{"dormant", usual(t, contract.ModeNAT), nft(`table ip mesh { flags dormant; chain in { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :9999; }; }`), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pod := newPod(t)
			apply(t, pod, tt.config)
			tt.rules(pod)
			others, err := Others(pod.Path(), tt.config)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range others {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s\n%s", diff, pod.Run("sh", "-c", "nft list ruleset | sed -n '/^table inet tproxy_cni/,/^}/d;p'"))
			}
			var check error
			if len(others) > 0 {
				check = Taken(others)
			}
			if diff := cmp.Diff(check, Check(pod.Path(), tt.config, required)); diff != "" {
				t.Errorf("CHECK (-want +got):\n%s", diff)
			}
		})
	}
}

// iptables runs commands of one kind of iptables, a line each, for both families: as
// iptables-restore does, which takes one process for all.
func iptables(kind, commands string) func(*lab.NS) {
	return func(pod *lab.NS) {
		script := map[string]string{}
		for line := range strings.Lines(strings.TrimSpace(commands) + "\n") {
			table, rule, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "-t "), " ")
			script[table] += rule + "\n"
		}
		for program, names := range map[string]*strings.Replacer{
			"iptables-":  strings.NewReplacer("LOCALHOST", "127.0.0.1/32", "CONTAINER", "172.17.0.2:80", "FOREIGN", "10.96.0.1", "OWN", "10.1.0.2:8080"),
			"ip6tables-": strings.NewReplacer("LOCALHOST", "::1/128", "CONTAINER", "[fd00:17::2]:80", "FOREIGN", "fd00:96::1", "OWN", "[fd00:1::2]:8080"),
		} {
			for table, rules := range script {
				pod.Run("sh", "-c", `printf %s "$1" | `+program+kind+`-restore -w`, "sh", "*"+table+"\n"+names.Replace(rules)+"COMMIT\n")
			}
		}
	}
}

// TestForeignNamesOfOthers: whatever a process of the pod calls its tables and chains,
// they are shown in printable words.
func TestForeignNamesOfOthers(t *testing.T) {
	pod := newPod(t)
	err := pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Name: "\x1b[2J", Family: nftables.TableFamilyINet})
		chain := conn.AddChain(&nftables.Chain{
			Name: "x\nlevel=ERROR", Table: table,
			Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: nft(tcp, redirectTo(1))})
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	others, err := Others(pod.Path(), usual(t, contract.ModeNAT))
	const want = `table inet "\x1b[2J", chain "x\nlevel=ERROR" (priority -100), rule 1 redirects new connections to port 1`
	if err != nil || len(others) != 1 || others[0].String() != want {
		t.Errorf("others are %v, %v; want %s", others, err, want)
	}
}
