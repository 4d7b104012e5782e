{{/* The labels that select the agents' pods. */}}
{{- define "zerohop.selector" -}}
app.kubernetes.io/name: zerohop
{{- end }}

{{/* The labels of every object. */}}
{{- define "zerohop.labels" -}}
{{ include "zerohop.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The agent's image. */}}
{{- define "zerohop.image" -}}
{{- with .Values.image.digest }}
{{- $.Values.image.repository }}@{{ . }}
{{- else }}
{{- .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The agent's configuration file. */}}
{{- define "zerohop.config" -}}
{{- $defaults := dict }}
{{- if .Values.hosts }}
{{- $_ := set $defaults "hosts" (list "/etc/zerohop/hosts") }}
{{- end }}
{{- with .Values.nodeResolvConf }}
{{- if ne . "/run/systemd/resolve/resolv.conf" }}
{{- $_ := set $defaults "resolv-conf" . }}
{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite $defaults .Values.config) }}
{{- end }}
