{{/* A value as TOML writes it on one line. Plain ones and lists of them are as in JSON; a table is not. */}}
{{- define "tusboat.toml" -}}
{{- if kindIs "map" . -}}
{{- $fields := list -}}
{{- range $name, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $fields = append $fields (printf "%s = %s" $name (include "tusboat.toml" $value)) -}}
{{- end -}}
{{- end -}}
{ {{- join ", " $fields -}} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (include "tusboat.toml" .) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* Tusboat's settings as TOML. What a person may have set comes last. */}}
{{- define "tusboat.config" -}}
{{- $values := .Values -}}
{{- $mode := include "tusboat.mode" . | fromYaml -}}
port = 8080
metrics_port = {{ $values.metrics.port }}
workers = {{ $values.web.processes }}
run_worker = {{ not $values.worker.split }}
job_concurrency = {{ $values.worker.concurrency }}
worker_grace_seconds = {{ max 5 (sub (int $values.worker.terminationGracePeriodSeconds) 30) }}
engine = {{ toJson $mode.engine }}
storage_driver = {{ toJson $mode.driver }}
tokens_file = "/etc/tusboat/tokens/tokens.toml"
{{- with $values.defaultRepository }}
default_repository = {{ toJson . }}
{{- end }}
{{- if and (eq $values.redis.mode "external") $values.redis.external.url }}
redis_url = {{ toJson $values.redis.external.url }}
{{- end }}
{{- if not (hasKey $values.settings "log_format") }}
log_format = "json"
{{- end }}
{{- range $name, $value := $values.settings }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }} = {{ include "tusboat.toml" $value }}
{{- end }}
{{- end }}
{{- range $index, $registry := $values.registries }}

[[registries]]
host = {{ toJson $registry.host }}
{{- with $registry.plainHttp }}
plain_http = {{ . }}
{{- end }}
{{- if eq (toString $registry.tlsVerify) "false" }}
tls_verify = false
{{- end }}
{{- with $registry.repositories }}
repositories = {{ toJson . }}
{{- end }}
{{- with $registry.trustedHosts }}
trusted_hosts = {{ toJson . }}
{{- end }}
{{- if $registry.ca }}
ca_file = "/etc/tusboat/registries/{{ $index }}/ca.crt"
{{- end }}
{{- if $registry.auth }}
authfile = "/etc/tusboat/registries/{{ $index }}/auth.json"
{{- end }}
{{- end }}
{{- end -}}

{{/* The callers as TOML. */}}
{{- define "tusboat.callers" -}}
{{- range .Values.tokens.callers }}
[[token]]
name = {{ toJson .name }}
sha256 = {{ toJson .sha256 }}
repositories = {{ toJson (default (list) .repositories) }}
admin = {{ default false .admin }}
{{- end }}
{{- end -}}
