{{- define "cosmos-serve.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "cosmos-serve.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cosmos-serve.labels" -}}
{{ include "cosmos-serve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cosmos-serve.keySecret" -}}
{{- if .Values.key.existingSecret }}
{{- .Values.key.existingSecret }}
{{- else if .Values.key.value }}
{{- include "cosmos-serve.name" . }}-key
{{- end }}
{{- end }}
