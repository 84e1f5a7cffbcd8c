{{/*
What lets a body of 20 GB and an event stream of hours through, for each controller. Traefik has no annotation for its
time limits: they are the entry point's (NOTES.txt says which).
*/}}
{{- define "tusboat.ingressPresets" -}}
nginx:
  nginx.ingress.kubernetes.io/proxy-body-size: "0"
  nginx.ingress.kubernetes.io/proxy-request-buffering: "off"
  nginx.ingress.kubernetes.io/proxy-buffering: "off"
  nginx.ingress.kubernetes.io/proxy-read-timeout: "3600"
  nginx.ingress.kubernetes.io/proxy-send-timeout: "3600"
traefik: {}
haproxy:
  haproxy.org/timeout-server: 1h
  haproxy-ingress.github.io/timeout-server: 1h
  haproxy-ingress.github.io/proxy-body-size: unlimited
apisix:
  k8s.apisix.apache.org/plugin-config-name: {{ include "tusboat.fullname" . }}
  k8s.apisix.apache.org/upstream-read-timeout: 3600s
  k8s.apisix.apache.org/upstream-send-timeout: 3600s
{{- end -}}
