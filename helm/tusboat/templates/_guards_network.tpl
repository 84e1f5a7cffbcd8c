{{/* A NetworkPolicy that would cut off what it should not, or open more than anybody said. */}}
{{- define "tusboat.guardNetwork" -}}
{{- $policy := .Values.networkPolicy -}}
{{- $anywhere := "anywhere but the cloud's metadata is [{ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}]" -}}
{{- if $policy.enabled -}}
{{- if and .Values.registries (not $policy.registries) -}}
{{- fail (printf "networkPolicy.enabled: say where the registries are, networkPolicy.registries, as peers of a NetworkPolicy; %s." $anywhere) -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "external") (not $policy.redis) -}}
{{- fail (printf "networkPolicy.enabled: say where the external Redis is, networkPolicy.redis, as peers of a NetworkPolicy; %s." $anywhere) -}}
{{- end -}}
{{- if and .Values.metrics.serviceMonitor.enabled (not $policy.metricsFrom) -}}
{{- fail "networkPolicy.enabled: say where Prometheus is, networkPolicy.metricsFrom, as peers of a NetworkPolicy; without it, only pods of this namespace may scrape ([{podSelector: {}}] says so)." -}}
{{- end -}}
{{- end -}}
{{- end -}}
