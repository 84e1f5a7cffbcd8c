{{/* The environment of a container of Tusboat. The image has its own TUSBOAT_HOST, which only a variable beats. */}}
{{- define "tusboat.env" -}}
- name: TUSBOAT_HOST
  value: {{ .Values.web.listen | quote }}
- name: TUSBOAT_DATA_DIR
  value: /data
{{- if eq .Values.redis.mode "bundled" }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "tusboat.redisPasswordSecret" . }}
      key: redis-password
- name: TUSBOAT_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "tusboat.fullname" . }}-redis:6379/0
{{- else if and (eq .Values.redis.mode "external") .Values.redis.external.existingSecret }}
- name: TUSBOAT_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.external.existingSecret }}
      key: {{ .Values.redis.external.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (dict "root" . "serves" true) */}}
{{- define "tusboat.mounts" -}}
- name: config
  mountPath: /etc/tusboat/config
  readOnly: true
{{- if .serves }}
- name: tokens
  mountPath: /etc/tusboat/tokens
  readOnly: true
{{- end }}
{{- if include "tusboat.registryFiles" .root }}
- name: registries
  mountPath: /etc/tusboat/registries
  readOnly: true
{{- end }}
- name: uploads
  mountPath: /data
{{- if ne .root.Values.scratch.type "uploads" }}
- name: scratch
  mountPath: /data/jobs
{{- end }}
- name: tmp
  mountPath: /tmp
- name: run
  mountPath: /run
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The sources of one volume with every registry's files. */}}
{{- define "tusboat.registryFiles" -}}
{{- range $index, $registry := .Values.registries }}
{{- with $registry.ca }}
- configMap:
    name: {{ .existingConfigMap }}
    items:
      - key: {{ default "ca.crt" .key }}
        path: {{ $index }}/ca.crt
{{- end }}
{{- with $registry.auth }}
- secret:
    name: {{ .existingSecret }}
    items:
      - key: {{ default ".dockerconfigjson" .key | quote }}
        path: {{ $index }}/auth.json
{{- end }}
{{- end }}
{{- end -}}

{{/* (dict "root" . "serves" true "works" false): without work, what is unpacked is little. */}}
{{- define "tusboat.volumes" -}}
{{- $values := .root.Values -}}
{{- $scratch := $values.scratch -}}
- name: config
  configMap:
    name: {{ include "tusboat.fullname" .root }}
{{- if .serves }}
- name: tokens
  secret:
    secretName: {{ include "tusboat.tokensSecret" .root }}
    defaultMode: 0440
    items:
      - key: {{ $values.tokens.key }}
        path: tokens.toml
{{- end }}
{{- with include "tusboat.registryFiles" .root }}
- name: registries
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
- name: uploads
  persistentVolumeClaim:
    claimName: {{ include "tusboat.claim" .root }}
{{- if and (ne $scratch.type "uploads") (not .works) }}
- name: scratch
  emptyDir:
    sizeLimit: 1Gi
{{- else if eq $scratch.type "emptyDir" }}
- name: scratch
  emptyDir:
    sizeLimit: {{ $scratch.size }}
{{- else if eq $scratch.type "ephemeral" }}
- name: scratch
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $scratch.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $scratch.size }}
{{- else if eq $scratch.type "hostPath" }}
- name: scratch
  hostPath:
    path: {{ $scratch.hostPath }}
    type: DirectoryOrCreate
{{- else if eq $scratch.type "claim" }}
- name: scratch
  persistentVolumeClaim:
    claimName: {{ $scratch.existingClaim }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
- name: run
  emptyDir:
    sizeLimit: 64Mi
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What is the same in every pod of Tusboat: (dict "root" . "component" "server" "pods" 1). */}}
{{- define "tusboat.podCommons" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "tusboat.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if gt (int .pods) 1 }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "tusboat.selector" . | nindent 14 }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range $values.topologySpreadConstraints }}
  - labelSelector:
      matchLabels:
        {{- include "tusboat.selector" $ | nindent 8 }}
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A pod of Tusboat: (dict "root" . "component" "server" "serves" true "works" true "pods" 1 "resources" ...). */}}
{{- define "tusboat.pod" -}}
{{- $values := .root.Values -}}
{{- $mode := include "tusboat.mode" .root | fromYaml -}}
metadata:
  labels:
    {{- include "tusboat.labels" . | nindent 4 }}
    metrics: tusboat
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "tusboat.config" .root | sha256sum }}
    {{- if and .serves $values.tokens.callers }}
    # Whose token is taken away is let in until the servers start anew. Never of a random token: it differs in each rendering.
    checksum/tokens: {{ include "tusboat.callers" .root | sha256sum }}
    {{- end }}
    {{- with include "tusboat.appArmor" . }}
    {{- if semverCompare "<1.30.0-0" $.root.Capabilities.KubeVersion.Version }}
    {{- $profile := eq . "Unconfined" | ternary "unconfined" "runtime/default" }}
    {{- if $values.doctor.enabled }}
    container.apparmor.security.beta.kubernetes.io/doctor: {{ $profile }}
    {{- end }}
    container.apparmor.security.beta.kubernetes.io/tusboat: {{ $profile }}
    {{- end }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "tusboat.podCommons" . | nindent 2 }}
  {{- if hasKey $mode "hostUsers" }}
  hostUsers: {{ $mode.hostUsers }}
  {{- end }}
  securityContext:
    fsGroup: {{ $values.fsGroup }}
    fsGroupChangePolicy: OnRootMismatch
    runAsNonRoot: {{ ne (int $mode.user) 0 }}
    seccompProfile:
      type: RuntimeDefault
  terminationGracePeriodSeconds: {{ .grace }}
  {{- if $values.doctor.enabled }}
  initContainers:
    - name: doctor
      image: {{ include "tusboat.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [tusboat, doctor, --json, --before, {{ ternary "serve" "worker" .serves }}, {{ if hasKey $mode "hostUsers" }}--user-namespace, {{ end }}--config, /etc/tusboat/config/tusboat.toml]
      env:
        {{- include "tusboat.env" .root | nindent 8 }}
      securityContext:
        {{- include "tusboat.containerSecurity" . | nindent 8 }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        {{- include "tusboat.mounts" . | nindent 8 }}
  {{- end }}
  containers:
    - name: tusboat
      image: {{ include "tusboat.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [tusboat, {{ ternary "serve" "worker" .serves }}, --config, /etc/tusboat/config/tusboat.toml]
      env:
        {{- include "tusboat.env" .root | nindent 8 }}
      ports:
        {{- if .serves }}
        - name: http
          containerPort: 8080
        {{- end }}
        - name: metrics
          containerPort: {{ $values.metrics.port }}
      {{- if .serves }}
      startupProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 2
        failureThreshold: 90
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {path: /livez, port: http}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      lifecycle:
        # Until every proxy has heard that this pod goes, it takes requests.
        preStop:
          {{- if semverCompare ">=1.30.0-0" .root.Capabilities.KubeVersion.Version }}
          sleep: {seconds: 5}
          {{- else }}
          exec: {command: [sleep, "5"]}
          {{- end }}
      {{- else }}
      startupProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 2
        failureThreshold: 90
      livenessProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 30
        timeoutSeconds: 20
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /metrics, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
      {{- end }}
      securityContext:
        {{- include "tusboat.containerSecurity" . | nindent 8 }}
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        {{- include "tusboat.mounts" . | nindent 8 }}
  volumes:
    {{- include "tusboat.volumes" . | nindent 4 }}
{{- end -}}
