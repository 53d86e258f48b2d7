{{/* Nodes without a machine, as in k8s/install/base: a pod there never becomes ready, and the rollout would wait for it. */}}
{{- define "tproxy-cni.machines" -}}
- {key: eks.amazonaws.com/compute-type, operator: NotIn, values: [fargate]}
- {key: type, operator: NotIn, values: [virtual-kubelet]} # AKS' virtual nodes and others
- {key: liqo.io/type, operator: NotIn, values: [virtual-node]}
{{- end }}

{{/* The value affinity, of which each of the node selector's terms also leaves these nodes out: terms are alternatives. */}}
{{- define "tproxy-cni.affinity" -}}
{{- $machines := include "tproxy-cni.machines" . | fromYamlArray -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- $node := $affinity.nodeAffinity | default dict -}}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict -}}
{{- $terms := list -}}
{{- range $required.nodeSelectorTerms | default (list dict) -}}
{{- $terms = append $terms (set . "matchExpressions" (concat (.matchExpressions | default list) $machines)) -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- toYaml $affinity -}}
{{- end }}
