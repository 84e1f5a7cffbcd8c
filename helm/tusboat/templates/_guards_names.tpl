{{/* Names that the chart gives itself: what would be there twice, or be none, is refused. */}}
{{- define "tusboat.guardNames" -}}
{{- $values := .Values -}}
{{- $name := include "tusboat.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%q would be the name of all objects, and a Service cannot have it: set fullnameOverride to small letters, digits and hyphens, with a letter first." $name) -}}
{{- end -}}

{{- $own := list -}}
{{- range $label, $_ := include "tusboat.ownLabels" (dict "root" . "component" "server") | fromYaml -}}
{{- $own = append $own $label -}}
{{- end -}}
{{- $given := dict "podLabels" $values.podLabels "metrics.serviceMonitor.labels" $values.metrics.serviceMonitor.labels "metrics.rules.labels" $values.metrics.rules.labels -}}
{{- range $what, $labels := merge (dict "commonLabels" $values.commonLabels) $given -}}
{{- range $label, $_ := $labels -}}
{{- $ofPods := has $what (list "commonLabels" "podLabels") -}}
{{- if or (has $label $own) (and $ofPods (eq "metrics" $label)) -}}
{{- fail (printf "%s: %s is a label of the chart, by which Services find pods: leave it out (nameOverride and fullnameOverride change names)." $what $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $what, $labels := $given -}}
{{- range $label, $_ := $labels -}}
{{- if hasKey $values.commonLabels $label -}}
{{- fail (printf "%s: %s is in commonLabels, too: say it once." $what $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $annotation, $_ := $values.podAnnotations -}}
{{- if or (hasPrefix "checksum/" $annotation) (hasPrefix "container.apparmor.security.beta.kubernetes.io/" $annotation) -}}
{{- fail (printf "podAnnotations: %s is one of the chart's: leave it out (AppArmor's profile is worker.appArmor)." $annotation) -}}
{{- end -}}
{{- end -}}
{{- if and $values.persistence.keep (hasKey $values.persistence.annotations "helm.sh/resource-policy") -}}
{{- fail "persistence.annotations: helm.sh/resource-policy is what persistence.keep says: leave one of them out." -}}
{{- end -}}

{{- range $values.extraEnv -}}
{{- if or (hasPrefix "TUSBOAT_" .name) (eq "REDIS_PASSWORD" .name) -}}
{{- fail (printf "extraEnv: %s would stand over what the values say: use `settings`, or the value of the chart that decides it." .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
