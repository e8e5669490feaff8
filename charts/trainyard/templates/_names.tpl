{{/* Names, labels and images that several templates share. */}}

{{/* Name of all objects, short enough for any suffix of ours. */}}
{{- define "trainyard.name" -}}
{{- $release := .Release.Name -}}
{{- $derived := contains "trainyard" $release | ternary $release (printf "%s-trainyard" $release) -}}
{{- .Values.fullnameOverride | default $derived | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Name of what belongs to no namespace, where a release of the same name may serve other namespaces. */}}
{{- define "trainyard.clusterName" -}}
{{- $name := printf "%s-operator" (include "trainyard.name" .) -}}
{{- .Values.watchNamespaces | empty | ternary $name (printf "%s-%s" $name .Release.Namespace) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* What selects the operator's pods; it never changes, because a Deployment's selector must not. */}}
{{- define "trainyard.selector" -}}
app.kubernetes.io/name: trainyard
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object; those that a user adds never replace ours. */}}
{{- define "trainyard.labels" -}}
{{- $own := include "trainyard.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "trainyard" -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_")) -}}
{{- toYaml (merge $own .Values.extraLabels) -}}
{{- end }}

{{/* An image by repository and digest, or tag. Takes a list of the image's values and the root. */}}
{{- define "trainyard.image" -}}
{{- $image := index . 0 -}}
{{- $root := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "trainyard.serviceAccount" -}}
{{- $created := printf "%s-operator" (include "trainyard.name" .) -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary $created "default") -}}
{{- end }}

{{/* The Service of the progress endpoint. It has no selector: the leading replica writes its EndpointSlice. */}}
{{- define "trainyard.progressService" -}}
{{ include "trainyard.name" . }}-progress
{{- end }}

{{/* The ConfigMap, in the operator's namespace and those of runs, that pods verify the endpoint with. */}}
{{- define "trainyard.caConfigMap" -}}
{{ include "trainyard.name" . }}-progress-ca
{{- end }}

{{- define "trainyard.lease" -}}
{{ include "trainyard.name" . }}-operator
{{- end }}

{{/* Stop at values that contradict each other, which a schema cannot tell. */}}
{{- define "trainyard.check" -}}
{{- if and (eq .Values.settings.leaderElection false) (gt (int .Values.replicas) 1) -}}
{{- fail "settings.leaderElection is false and replicas is more than 1, so that several replicas would act at once: set replicas to 1" -}}
{{- end -}}
{{- if eq (int .Values.progress.port) (int .Values.metrics.port) -}}
{{- fail "progress.port and metrics.port are equal: choose another port for one of them" -}}
{{- end -}}
{{- if and .Values.rbac.create (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty, so that every pod of the namespace without an account of its own would get the operator's rights: name an account" -}}
{{- end -}}
{{- end }}
