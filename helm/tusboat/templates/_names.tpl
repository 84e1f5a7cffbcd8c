{{- define "tusboat.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What a selector looks for: (dict "root" . "component" "server"). Never changes, or upgrades fail. */}}
{{- define "tusboat.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 50 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tusboat.labels" -}}
{{ include "tusboat.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tusboat.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "tusboat.serviceAccount" -}}
{{- $default := ternary (include "tusboat.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tusboat.claim" -}}
{{- default (printf "%s-uploads" (include "tusboat.fullname" .)) .Values.persistence.existingClaim -}}
{{- end -}}

{{- define "tusboat.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "tusboat.fullname" .)) .Values.tokens.existingSecret -}}
{{- end -}}

{{- define "tusboat.redisPasswordSecret" -}}
{{- default (printf "%s-redis" (include "tusboat.fullname" .)) .Values.redis.bundled.existingSecret -}}
{{- end -}}
