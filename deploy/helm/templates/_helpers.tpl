{{- define "cosmos-serve.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "cosmos-serve.rayLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-ray
app.kubernetes.io/instance: {{ .Release.Name }}
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

{{- define "cosmos-serve.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What every server is told. */}}
{{- define "cosmos-serve.env" -}}
{{- if .Values.database.existingSecret }}
# They would all fetch into one volume: it is filled before.
- name: COSMOS_PULL
  value: "false"
{{- end }}
{{- if include "cosmos-serve.keySecret" . }}
- name: COSMOS_KEY_FILE
  value: /secrets/key
{{- end }}
{{- if .Values.hub.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.hub.existingSecret }}
      key: token
{{- end }}
{{- if .Values.database.existingSecret }}
- name: COSMOS_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: url
{{- end }}
{{- if .Values.files.bucket }}
- name: COSMOS_FILES
  value: {{ .Values.files.bucket | quote }}
{{- end }}
{{- range $setting, $value := .Values.settings }}
- name: COSMOS_{{ $setting }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "cosmos-serve.envFrom" -}}
{{- with .Values.files.existingSecret -}}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}

{{- define "cosmos-serve.rayPod" -}}
enableServiceLinks: false
terminationGracePeriodSeconds: 30
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{- /* A container in which KubeRay starts a node of Ray. It has no secrets but the cluster's token. */}}
{{- define "cosmos-serve.rayContainer" -}}
image: {{ include "cosmos-serve.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
env:
  - name: RAY_USAGE_STATS_ENABLED
    value: "0"
  # Weights that are loaded fill the page cache, for which it would kill workers.
  - name: RAY_memory_monitor_refresh_ms
    value: "0"
{{- end }}

{{- define "cosmos-serve.rayVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory}
- name: data
  emptyDir: {}
- name: weights
  persistentVolumeClaim:
    claimName: {{ .Values.weights.existingClaim | default (printf "%s-weights" (include "cosmos-serve.name" .)) }}
    readOnly: true
{{- end }}
