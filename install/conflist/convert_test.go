package conflist_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/tproxy-cni/tproxy-cni/install/conflist"
	"github.com/tproxy-cni/tproxy-cni/install/node/nodetest"
)

// TestConvert: the list means what libcni makes of the single plugin, and holds
// its bytes.
func TestConvert(t *testing.T) {
	for name, conf := range nodetest.Configs(t, ".conf", ".json") {
		t.Run(name, func(t *testing.T) {
			single, err := libcni.NetworkPluginConfFromBytes(conf)
			if err != nil {
				t.Fatal(err)
			}
			//lint:ignore SA1019 runtimes do so as long as there are such files
			want, err := libcni.ConfListFromConf(single)
			if err != nil {
				t.Fatal(err)
			}
			list, err := conflist.Convert(conf, []byte(entry))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(list, bytes.TrimSpace(conf)) {
				t.Errorf("the plugin's bytes are not in\n%s", list)
			}
			got, err := libcni.NetworkConfFromBytes(list)
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != want.Name || got.CNIVersion != want.CNIVersion || len(got.Plugins) != 2 {
				t.Errorf("got %s %s with %d plugins", got.Name, got.CNIVersion, len(got.Plugins))
			}
			if !bytes.Equal(got.Plugins[0].Bytes, want.Plugins[0].Bytes) {
				t.Errorf("plugin is %s\nwant %s", got.Plugins[0].Bytes, want.Plugins[0].Bytes)
			}
			if !conflist.Converted(list, conf, []byte(entry)) {
				t.Error("not recognized as converted")
			}
			if conflist.Converted(list, bytes.Replace(conf, []byte("true"), []byte("false"), 1), []byte(entry)) {
				t.Error("recognized although the original has changed")
			}
		})
	}
}

func TestConvertedKeepsGuests(t *testing.T) {
	conf := nodetest.Configs(t, ".conf")["10-bridge.conf"]
	list, err := conflist.Convert(conf, []byte(entry))
	if err != nil {
		t.Fatal(err)
	}
	guest := slices.Concat(bytes.TrimSuffix(list, []byte("\n  ]\n}\n")), []byte(",\n{\"type\":\"linkerd-cni\"}\n]}"))
	if !conflist.Converted(guest, conf, []byte(entry)) {
		t.Errorf("a plugin that another chained into the list makes it wrong:\n%s", guest)
	}
}
