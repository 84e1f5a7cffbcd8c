{{/*
What each way of loading images needs, as it was measured: engine and storage driver of Tusboat, and the least that a
container has to be allowed. Nothing here is ever `privileged`.
*/}}
{{- define "tusboat.modes" -}}
restricted:
  engine: skopeo
  driver: vfs
  user: 1000
  capabilities: []
  noNewPrivileges: true
userns:
  engine: buildah
  driver: overlay
  user: 0
  hostUsers: false
  capabilities: [SYS_ADMIN, CHOWN, DAC_OVERRIDE, FOWNER, SYS_CHROOT]
rootful:
  engine: buildah
  driver: overlay
  user: 0
  capabilities: [SYS_ADMIN, CHOWN, DAC_OVERRIDE, FOWNER, SETFCAP, SYS_CHROOT]
vfs:
  engine: buildah
  driver: vfs
  user: 0
  capabilities: [CHOWN, DAC_OVERRIDE, FOWNER, SYS_CHROOT]
  noNewPrivileges: true
{{- end -}}

{{/* The mode of this release, as YAML. */}}
{{- define "tusboat.mode" -}}
{{- get (include "tusboat.modes" . | fromYaml) .Values.worker.mode | toYaml -}}
{{- end -}}

{{/*
The container's securityContext: (dict "root" . "works" true). A server beside workers of its own Deployment is the same
user, since both own files on the claim, and needs no capability.
*/}}
{{- define "tusboat.containerSecurity" -}}
{{- $mode := include "tusboat.mode" .root | fromYaml -}}
{{- $nonRoot := ne (int $mode.user) 0 -}}
runAsUser: {{ $mode.user }}
runAsGroup: {{ $mode.user }}
runAsNonRoot: {{ $nonRoot }}
privileged: false
{{- if or $mode.noNewPrivileges (not .works) }}
allowPrivilegeEscalation: false
{{- end }}
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  {{- $add := $mode.capabilities }}
  {{- if and .root.Values.worker.deviceNodes (eq .root.Values.worker.mode "rootful") }}
  {{- $add = append $add "MKNOD" }}
  {{- end }}
  {{- if .root.Values.settings.builds }}
  {{- /* The steps of a build are other users, in a sandbox with ids of its own. */}}
  {{- $add = concat $add (list "SETUID" "SETGID") }}
  {{- end }}
  {{- if and .works $add }}
  add: {{ toJson $add }}
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- with include "tusboat.appArmor" . }}
{{- if semverCompare ">=1.30.0-0" $.root.Capabilities.KubeVersion.Version }}
appArmorProfile:
  type: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* AppArmor's profile: (dict "root" . "works" true). Only what works mounts, and has to be unconfined for it. */}}
{{- define "tusboat.appArmor" -}}
{{- $profile := .root.Values.worker.appArmor -}}
{{- if or .works (ne $profile "Unconfined") -}}
{{- $profile -}}
{{- end -}}
{{- end -}}
