{{- define "chat-gateway.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names have 63 characters at most, and some objects append to this one. */}}
{{- define "chat-gateway.fullname" -}}
{{- $name := include "chat-gateway.name" . -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "chat-gateway.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "chat-gateway.fullname" .) "default") -}}
{{- end -}}

{{- define "chat-gateway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "chat-gateway.labels" -}}
app.kubernetes.io/name: {{ include "chat-gateway.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What pods of the gateway are told by. It cannot be changed in a Deployment that exists. */}}
{{- define "chat-gateway.selector" -}}
app.kubernetes.io/name: {{ include "chat-gateway.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "chat-gateway.testSelector" -}}
app.kubernetes.io/name: {{ include "chat-gateway.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end -}}

{{/* gateway.yaml as it is mounted. */}}
{{- define "chat-gateway.config" -}}
{{- $host := contains ":" .Values.address | ternary (printf "[%s]" .Values.address) .Values.address -}}
{{- $own := dict "listen" (printf "%s:8080" $host) "admin_listen" (printf "%s:8081" $host) "policies" "policies" -}}
{{- if ne .Values.revocations.journal "none" -}}
{{- $_ := set $own "revocations" (dict "journal" "/var/lib/chat-gateway/revocations") -}}
{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $own) -}}
{{- end -}}

{{/* What takes a restart, as docs/configuration.md marks it: its digest makes pods anew. All else is read again by those that run. */}}
{{- define "chat-gateway.atStart" -}}
{{- $config := include "chat-gateway.config" . | fromYaml -}}
{{- $said := dict -}}
{{- range $name := list "listen" "tls" "admin_listen" "admin_tls" "edge" "revocations" "upstream.deadline_ms" "upstream.max_connections" "upstream.max_answer_bytes" "upstream.proxy" "cache" "memory" "redis_url" "redis" "short_cut" "drain_delay_s" "drain_s" "log_level" "log_one_hit_in" -}}
{{- $value := $config -}}
{{- range splitList "." $name -}}
{{- $value = get (kindIs "map" $value | ternary $value dict) . -}}
{{- end -}}
{{- $_ := set $said $name $value -}}
{{- end -}}
{{- toJson $said -}}
{{- end -}}

{{/* As long as the gateway takes to end, and five seconds for what lingers. */}}
{{- define "chat-gateway.gracePeriod" -}}
{{- add (int .Values.preStopSeconds) (int (dig "drain_delay_s" 5 .Values.config)) (int (dig "drain_s" 10 .Values.config)) 5 -}}
{{- end -}}

{{/* The text of each policy file, by its name. */}}
{{- define "chat-gateway.policies" -}}
{{- toYaml (merge (dict) .Values.policies (dict "resources.yaml" (.Files.Get "files/resources.yaml"))) }}

{{- end -}}

{{/* Keys of a ConfigMap have no slash. */}}
{{- define "chat-gateway.policyKey" -}}
{{- . | replace "/" "." -}}
{{- end -}}

{{/* Configuration, policies and secrets are one volume: kubelet swaps them in one step, and a mount below another would not be swapped at all. */}}
{{- define "chat-gateway.volume" -}}
name: configuration
projected:
  # 0440, in the group of fsGroup.
  defaultMode: 288
  sources:
    - configMap:
        name: {{ include "chat-gateway.fullname" . | quote }}
        items:
          - {key: gateway.yaml, path: gateway.yaml}
    - configMap:
        name: {{ include "chat-gateway.fullname" . }}-policies
        items:
        {{- range $name, $_ := include "chat-gateway.policies" . | fromYaml }}
          - {key: {{ include "chat-gateway.policyKey" $name }}, path: policies/{{ $name }}}
        {{- end }}
    {{- range $name, $file := .Values.files }}
    {{- if $file.secret }}
    - secret:
        name: {{ $file.secret | quote }}
    {{- else }}
    - configMap:
        name: {{ $file.configMap | quote }}
    {{- end }}
        items:
          - key: {{ $file.key | quote }}
            path: {{ printf "files/%s" $name | quote }}
    {{- end }}
{{- end -}}

{{- define "chat-gateway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "chat-gateway.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where others see the gateway. A host may have a port there, which no rule for hosts takes. */}}
{{- define "chat-gateway.publicHost" -}}
{{- (urlParse .Values.config.public_url).hostname -}}
{{- end -}}

{{- define "chat-gateway.publicPath" -}}
{{- (urlParse .Values.config.public_url).path | trimSuffix "/" | default "/" -}}
{{- end -}}
