{{/* What a schema cannot see: how values fit together. Each line of the result is a mistake. */}}
{{- define "chat-gateway.mistakes" -}}
{{- $values := .Values -}}
{{- $used := dict -}}
{{- include "chat-gateway.wrongFiles" (dict "at" "config" "value" .Values.config "files" .Values.files "used" $used) -}}
{{- range $name, $_ := .Values.files }}
{{- if not (hasKey $used $name) }}
files.{{ $name }}: expected a setting in config that says files/{{ $name }}, got none
{{- end }}
{{- end }}
{{- if not (without (keys .Values.policies) "resources.yaml") }}
policies: expected at least one clients/<file>.yaml, got none
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
autoscaling.minReplicas: expected no more than maxReplicas ({{ .maxReplicas }}), got {{ .minReplicas }}
{{- end }}
{{- if and .enabled (not .cpuPercent) (not .requestsInProgress) }}
autoscaling: expected cpuPercent, requestsInProgress or both, got neither
{{- end }}
{{- end }}
{{- if eq .Values.revocations.journal "claim" }}
{{- if not .Values.revocations.claim }}
revocations.claim: expected the name of a PersistentVolumeClaim, got none
{{- end }}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}
revocations.journal: expected pod or none, as replicas cannot share a journal, got claim
{{- end }}
{{- else if .Values.revocations.claim }}
revocations.journal: expected claim, as a claim is named, got {{ .Values.revocations.journal }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
httpRoute.parentRefs: expected at least one Gateway, got none
{{- end }}
{{- range $kind := list "ingress" "httpRoute" }}
{{- if and (index $values $kind).enabled (regexMatch "^[0-9.]+$|:" (urlParse $values.config.public_url).hostname) }}
{{ $kind }}: expected a host name in config.public_url, got {{ $values.config.public_url }}
{{- end }}
{{- end }}
{{- with .Values.networkPolicy }}
{{- if and .enabled $values.config.redis_url (not .redis.to) }}
networkPolicy.redis.to: expected where Redis is, as config.redis_url is given, got nothing
{{- end }}
{{- end }}
{{- range $key, $_ := merge (dict) .Values.labels .Values.podLabels }}
{{- if regexMatch "^(app[.]kubernetes[.]io|helm[.]sh)/" $key }}
labels: expected none of the chart's own, got {{ $key }}
{{- else if and (hasKey $values.labels $key) (hasKey $values.podLabels $key) }}
podLabels: expected none that labels has, got {{ $key }}
{{- end }}
{{- end }}
{{- if hasKey .Values.podAnnotations "checksum/at-start" }}
podAnnotations: expected none of the chart's own, got checksum/at-start
{{- end }}
{{- if and .Values.image.tag .Values.image.digest }}
image: expected tag or digest, got both
{{- end }}
{{- end -}}

{{/* The settings that name a file: each has to name one that is mounted. `used` collects the names. */}}
{{- define "chat-gateway.wrongFiles" -}}
{{- $ := . -}}
{{- if kindIs "map" .value }}
{{- range $key, $value := .value }}
{{- $at := printf "%s.%s" $.at $key }}
{{- if and (kindIs "string" $value) (or (hasSuffix "_file" $key) (eq $key "jwks") (eq $at "config.revocations.file")) }}
{{- $name := trimPrefix "files/" $value }}
{{- $_ := set $.used $name true }}
{{- if or (not (hasPrefix "files/" $value)) (not (hasKey $.files $name)) }}
{{ $at }}: expected files/<name>, with this name under files, got {{ $value }}
{{- end }}
{{- else }}
{{- include "chat-gateway.wrongFiles" (dict "at" $at "value" $value "files" $.files "used" $.used) }}
{{- end }}
{{- end }}
{{- else if kindIs "slice" .value }}
{{- range $index, $value := .value }}
{{- include "chat-gateway.wrongFiles" (dict "at" (printf "%s.%d" $.at $index) "value" $value "files" $.files "used" $.used) }}
{{- end }}
{{- end }}
{{- end -}}
