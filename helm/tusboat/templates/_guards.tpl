{{/*
What cannot work is refused here, in a sentence that says what to do instead. Everything that makes an object asks first.
*/}}
{{- define "tusboat.guard" -}}
{{- $values := .Values -}}
{{- $mode := $values.worker.mode -}}
{{- $split := $values.worker.split -}}
{{- $workers := ternary (int $values.worker.replicas) 0 $split -}}
{{- $pods := add (int $values.web.replicas) $workers | int -}}
{{- $shared := has "ReadWriteMany" $values.persistence.accessModes -}}
{{- $objectStorage := "(?i)(^|[^a-z])(s3|s3fs|minio|gcs|gcsfuse|(azure)?blob(fuse)?|oss|ossfs|obs|obsfs|cos|cosfs|object[a-z]*|bucket|juicefs|goofys|geesefs|rclone|mountpoint)([^a-z]|$)" -}}
{{- $nfs := "(?i)nfs|(^|[^a-z])(efs|nas|filestore)([^a-z]|$)" -}}

{{- if and (gt (int $values.web.replicas) 1) (not $split) -}}
{{- fail "web.replicas is more than 1, but worker.split is false: set worker.split=true, so that workers are a Deployment of their own." -}}
{{- end -}}
{{- if and (gt $pods 1) (not $shared) -}}
{{- fail (printf "%d pods share the uploads, but persistence.accessModes is %s: use a claim that can be mounted ReadWriteMany (NFS 4, CephFS) and say persistence.accessModes={ReadWriteMany}, or stay with one pod (web.replicas=1, worker.split=false)." $pods (join ", " $values.persistence.accessModes)) -}}
{{- end -}}
{{- if and (gt $pods 1) (eq $values.redis.mode "embedded") -}}
{{- fail "redis.mode is embedded, which one pod can use only: set redis.mode=bundled, or redis.mode=external with redis.external.existingSecret." -}}
{{- end -}}
{{- if eq $values.redis.mode "external" -}}
{{- $ways := 0 -}}
{{- if $values.redis.external.url -}}{{- $ways = add $ways 1 -}}{{- end -}}
{{- if $values.redis.external.existingSecret -}}{{- $ways = add $ways 1 -}}{{- end -}}
{{- if ne (int $ways) 1 -}}
{{- fail "redis.mode is external: say where it is, either redis.external.existingSecret (a Secret that holds the URL) or redis.external.url, and not both." -}}
{{- end -}}
{{- if or (contains "@" $values.redis.external.url) (regexMatch "(?i)[?&](password|username)=" $values.redis.external.url) -}}
{{- fail "redis.external.url holds a password, which everyone could read: put the URL into a Secret and name it as redis.external.existingSecret." -}}
{{- end -}}
{{- else if or $values.redis.external.url $values.redis.external.existingSecret -}}
{{- fail (printf "redis.mode is %s, and redis.external says where another one is: set redis.mode=external, or leave redis.external empty." $values.redis.mode) -}}
{{- end -}}
{{- if and (ne $values.redis.mode "bundled") $values.redis.bundled.existingSecret -}}
{{- fail (printf "redis.mode is %s, and redis.bundled.existingSecret is the password of another one: set redis.mode=bundled, or leave it empty." $values.redis.mode) -}}
{{- end -}}

{{- range $what, $class := dict "persistence.storageClass" $values.persistence.storageClass "scratch.storageClass" $values.scratch.storageClass "redis.bundled.storageClass" $values.redis.bundled.storageClass -}}
{{- if and (regexMatch $objectStorage $class) (not (regexMatch "(?i)directpv|local" $class)) -}}
{{- fail (printf "%s is %q, which looks like object storage: it has neither file locks nor what images are unpacked with. Use a block or file storage class; give object storage to the registry." $what $class) -}}
{{- end -}}
{{- end -}}

{{- $uploadsOnNfs := or $values.persistence.nfs (regexMatch $nfs $values.persistence.storageClass) -}}
{{- $scratchOnNfs := or (and (eq $values.scratch.type "uploads") $uploadsOnNfs) (and (eq $values.scratch.type "ephemeral") (regexMatch $nfs $values.scratch.storageClass)) -}}
{{- if and (eq $mode "userns") $uploadsOnNfs -}}
{{- fail "worker.mode is userns and the uploads are on NFS, which pods in a user namespace cannot mount: use worker.mode=restricted or rootful, or another storage class." -}}
{{- end -}}
{{- if and (eq $mode "userns") (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "worker.mode is userns, and Kubernetes %s has no user namespaces for pods with volumes: use 1.30 or later (on by default from 1.33), or worker.mode=restricted." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $mode "userns") (not $values.doctor.enabled) -}}
{{- fail "worker.mode is userns, and doctor.enabled is false: a node without user namespaces makes root of the pod root of the node and says nothing; only the doctor sees it. Set doctor.enabled=true." -}}
{{- end -}}
{{- if and (has $mode (list "userns" "rootful")) $scratchOnNfs -}}
{{- fail (printf "worker.mode is %s, whose overlay cannot be on NFS, and scratch is there: use scratch.type=emptyDir or ephemeral with a local class, or worker.mode=restricted, which needs no overlay." $mode) -}}
{{- end -}}
{{- if and (eq $mode "vfs") (not $values.worker.vfsForSmallImages) -}}
{{- fail "worker.mode is vfs, which copies the whole image for every layer: say worker.vfsForSmallImages=true if images are small, or use worker.mode=restricted, which needs no privileges either." -}}
{{- end -}}
{{- if and $values.settings.builds (ne $mode "rootful") -}}
{{- fail (printf "settings.builds needs a sandbox with mounts and 16 million user ids, which worker.mode=%s does not have: use worker.mode=rootful, or leave builds off." $mode) -}}
{{- end -}}
{{- if and $values.worker.deviceNodes (ne $mode "rootful") -}}
{{- fail "worker.deviceNodes is for worker.mode=rootful only: nothing else may make device nodes." -}}
{{- end -}}

{{- if and (eq $values.scratch.type "hostPath") (not $values.scratch.hostPath) -}}
{{- fail "scratch.type is hostPath: say the directory, scratch.hostPath." -}}
{{- end -}}
{{- if and (eq $values.scratch.type "hostPath") (has $mode (list "restricted" "vfs")) -}}
{{- fail (printf "scratch.type is hostPath, which the Pod Security level of worker.mode=%s forbids, and a directory of the node is root's: use scratch.type=emptyDir or ephemeral." $mode) -}}
{{- end -}}
{{- if eq $values.scratch.type "claim" -}}
{{- if not $values.scratch.existingClaim -}}
{{- fail "scratch.type is claim: name it, scratch.existingClaim." -}}
{{- end -}}
{{- if gt $pods 1 -}}
{{- fail "scratch.type is claim, which several pods would share: use scratch.type=ephemeral, a claim for each pod." -}}
{{- end -}}
{{- end -}}

{{- if and $values.ingress.enabled (not $values.ingress.hosts) -}}
{{- fail "ingress.enabled: say under which names it answers, ingress.hosts." -}}
{{- end -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled: name the Gateway, httpRoute.parentRefs." -}}
{{- end -}}
{{- $hosts := list -}}
{{- range $values.registries -}}
{{- if has .host $hosts -}}
{{- fail (printf "registries: %s is there twice; put its repositories into one row." .host) -}}
{{- end -}}
{{- $hosts = append $hosts .host -}}
{{- end -}}
{{- if and $values.tokens.existingSecret $values.tokens.callers -}}
{{- fail "tokens.existingSecret and tokens.callers: the callers are in the Secret, or here, not in both." -}}
{{- end -}}
{{- if and (eq $values.tokens.key "token") (not $values.tokens.existingSecret) -}}
{{- fail "tokens.key is token, which is the key of the random token in the same Secret: leave it at tokens.toml." -}}
{{- end -}}
{{- if eq (int $values.metrics.port) 8080 -}}
{{- fail "metrics.port is 8080, where the server itself listens in the pod: use another one, such as 9090." -}}
{{- end -}}
{{- if and $values.metrics.rules.enabled (not $values.metrics.serviceMonitor.enabled) -}}
{{- fail "metrics.rules.enabled: its alerts ask for labels that the ServiceMonitor gives; set metrics.serviceMonitor.enabled=true." -}}
{{- end -}}
{{- include "tusboat.guardNames" . -}}
{{- include "tusboat.guardNetwork" . -}}
{{- end -}}
