{{/*
At most 46 characters: a pod of the StatefulSet NAME-redis has a label with ten more, and 63 is the end of a label. A
release may have dots in its name, a Service not.
*/}}
{{- define "tusboat.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | replace "." "-" | trunc 46 | regexFind ".*[^-]" -}}
{{- end -}}

{{/* What a selector looks for: (dict "root" . "component" "server"). Never changes, or upgrades fail. */}}
{{- define "tusboat.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 50 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "tusboat.ownLabels" -}}
{{ include "tusboat.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "tusboat.labels" -}}
{{ include "tusboat.ownLabels" . }}
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

{{/* Whether there is a pod for `helm test`: it needs a token. */}}
{{- define "tusboat.tested" -}}
{{- if or .Values.test.tokenSecret (not (or .Values.tokens.existingSecret .Values.tokens.callers)) -}}
true
{{- end -}}
{{- end -}}
