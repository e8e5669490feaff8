{{/* The operator's settings; `trainyard-operator --help` lists them. */}}
{{- define "trainyard.environment" -}}
- name: TRAINYARD_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: TRAINYARD_POD_ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: TRAINYARD_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- with .Values.watchNamespaces }}
- name: TRAINYARD_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
- name: TRAINYARD_WORKER_IMAGE
  value: {{ include "trainyard.image" (list .Values.worker.image .) | quote }}
- name: TRAINYARD_DEFAULT_CLAIM_NAME
  value: {{ .Values.worker.defaultClaimName | quote }}
- name: TRAINYARD_CLUSTER_DOMAIN
  value: {{ .Values.clusterDomain | quote }}
- name: TRAINYARD_LEASE_NAME
  value: {{ include "trainyard.lease" . | quote }}
- name: TRAINYARD_PROGRESS_SERVICE
  value: {{ include "trainyard.progressService" . | quote }}
- name: TRAINYARD_PROGRESS_URL
  value: "https://{{ include "trainyard.progressService" . }}.{{ .Release.Namespace }}.svc:{{ .Values.progress.port }}"
- name: TRAINYARD_PROGRESS_PORT
  value: {{ .Values.progress.port | quote }}
- name: TRAINYARD_CA_CONFIG_MAP
  value: {{ include "trainyard.caConfigMap" . | quote }}
{{- if .Values.progress.certificateSecretName }}
- name: TRAINYARD_CERTIFICATE_FILE
  value: /etc/trainyard/certificate/tls.crt
- name: TRAINYARD_CERTIFICATE_KEY_FILE
  value: /etc/trainyard/certificate/tls.key
- name: TRAINYARD_CERTIFICATE_AUTHORITY_FILE
  value: /etc/trainyard/certificate/ca.crt
{{- end }}
- name: TRAINYARD_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
- name: TRAINYARD_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
{{- range $name, $value := .Values.settings }}
- name: TRAINYARD_{{ $name | snakecase | upper }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
