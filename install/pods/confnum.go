package pods

import (
	"context"
	"encoding/json"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// MaxConfNum is containerd's max_conf_num: how many CNI configurations it loads, each a
// network of every pod; 0 is all. It is 1, containerd's default, for a runtime that does
// not say. The error is the runtime's.
func (r *Runtime) MaxConfNum(ctx context.Context) (int, error) {
	answer, err := r.api.Status(ctx, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return 1, plain("Status", err)
	}
	var c struct{ PluginMaxConfNum *int } // containerd's go-cni.ConfigResult
	if json.Unmarshal([]byte(answer.GetInfo()["cniconfig"]), &c) != nil || c.PluginMaxConfNum == nil {
		return 1, nil
	}
	return *c.PluginMaxConfNum, nil
}
