{{/* Ports that a NetworkPolicy opens: what the values name, else what addresses say. */}}
{{- define "tusboat.registryPorts" -}}
{{- $ports := list -}}
{{- range .Values.registries -}}
{{- $usual := ternary "80" "443" (default false .plainHttp) -}}
{{- range prepend (default list .trustedHosts) .host -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | trimPrefix ":" | default $usual | int) -}}
{{- end -}}
{{- end -}}
{{- default (uniq $ports) .Values.networkPolicy.registryPorts | toJson -}}
{{- end -}}

{{/* A URL in a Secret cannot be read here. */}}
{{- define "tusboat.redisPort" -}}
{{- $said := "" -}}
{{- with .Values.redis.external.url -}}
{{- $said = regexFind ":[0-9]+$" (urlParse .).host | trimPrefix ":" -}}
{{- end -}}
{{- default (default "6379" $said | int) .Values.networkPolicy.redisPort -}}
{{- end -}}
