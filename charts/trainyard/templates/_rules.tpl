{{/* What the operator may do: exactly what its code asks of the API server, see tests/chart/test_permissions.py. */}}

{{/* In every namespace with runs. Services and plans are watched to make again those that somebody deletes. */}}
{{- define "trainyard.runRules" -}}
- apiGroups: [trainyard.dev]
  resources: [trainingruns]
  verbs: [get, list, watch, delete]
- apiGroups: [trainyard.dev]
  resources: [trainingruns/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, deletecollection]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ include "trainyard.caConfigMap" . }}]
  verbs: [update]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
{{- end }}

{{/* In its own namespace. */}}
{{- define "trainyard.ownRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "trainyard.lease" . }}]
  verbs: [get, update]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [{{ include "trainyard.progressService" . }}-leader]
  verbs: [create, patch]
{{- if and .Values.watchNamespaces (not .Values.progress.certificateSecretName) }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ include "trainyard.caConfigMap" . }}]
  verbs: [get, update]
{{- end }}
{{- end }}

{{/* Nowhere in particular: a TokenReview is an object of the cluster. */}}
{{- define "trainyard.tokenReviewRule" -}}
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}
