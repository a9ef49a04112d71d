{{- define "keytally.labels" -}}
app.kubernetes.io/name: keytally
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The pods of this release that have the sidecar. */}}
{{- define "keytally.selector" -}}
matchLabels:
  {{- include "keytally.podLabels" . | nindent 2 }}
{{- end }}
