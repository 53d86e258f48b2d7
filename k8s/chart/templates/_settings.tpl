{{/*
A setting's value as the text that the installer's flag takes, or an error. What the plugin takes is taken;
what only the installer can judge (a CIDR's host bits, for one) it refuses when it starts.
*/}}
{{- define "tproxy-cni.setting" -}}
{{- $port := "^0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$" -}}
{{- $elements := list -}}
{{- range kindIs "slice" .value | ternary .value (list .value) -}}
{{- $elements = append $elements (kindIs "float64" . | ternary (. | int64 | toString) (toString .)) -}}
{{- end -}}
{{- $text := join "," $elements | trim -}}
{{- $elements = eq $text "" | ternary list (splitList "," $text) -}}
{{- if eq .name "mode" -}}
  {{- if not (has $text (list "nat" "tproxy" "none")) }}{{ fail (printf "settings.mode %q: want nat, tproxy or none" $text) }}{{ end -}}
{{- else if eq .name "proxy-uid" -}}
  {{- if not (and (regexMatch "^0*[1-9][0-9]{0,9}$" $text) (le (atoi $text) 4294967294)) }}{{ fail (printf "settings.proxy-uid %q: want 1-4294967294" $text) }}{{ end -}}
{{- else if hasSuffix "-port" .name -}}
  {{- if not (regexMatch $port $text) }}{{ fail (printf "settings.%s %q: want 1-65535" .name $text) }}{{ end -}}
{{- else if hasSuffix "-ports" .name -}}
  {{- $name := .name -}}
  {{- range $elements -}}
    {{- $ends := splitList "-" . -}}
    {{- $low := trim (first $ends) -}}
    {{- $high := trim (last $ends) -}}
    {{- if not (and (le (len $ends) 2) (regexMatch $port $low) (regexMatch $port $high) (le (atoi $low) (atoi $high))) }}{{ fail (printf "settings.%s %q: want ports and ranges of 1-65535, such as 80,8000-8099" $name .) }}{{ end -}}
  {{- end -}}
{{- else if hasSuffix "-cidrs" .name -}}
  {{- $name := .name -}}
  {{- range $elements -}}
    {{- if not (regexMatch "^([0-9]{1,3}([.][0-9]{1,3}){3}/([12]?[0-9]|3[0-2])|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*/([1-9]?[0-9]|1[01][0-9]|12[0-8]))$" (trim .)) }}{{ fail (printf "settings.%s %q: want CIDRs such as 192.0.2.0/24,2001:db8::/32" $name .) }}{{ end -}}
  {{- end -}}
{{- end -}}
{{- $text -}}
{{- end }}
