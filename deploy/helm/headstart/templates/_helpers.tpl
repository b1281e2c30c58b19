{{/* The name of everything in this release, and the labels. A CronJob may have 52 characters: with "-0-train" 44 are left. */}}
{{- define "headstart.fullname" -}}
{{- if contains "headstart" .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-headstart" .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "headstart.selectorLabels" -}}
app.kubernetes.io/name: headstart
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: daemon
{{- end -}}

{{- define "headstart.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: headstart
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headstart
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "headstart.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "headstart.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.create is false: name the account in serviceAccount.name" -}}
{{- end -}}
{{- end -}}

{{- define "headstart.tokenSecret" -}}
{{- .Values.token.existingSecret | default (printf "%s-token" (include "headstart.fullname" .)) -}}
{{- end -}}

{{/* An image reference from {image, tag}: the digest if there is one, else the tag, else the given one. */}}
{{- define "headstart.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}

{{- define "headstart.trainImage" -}}
{{- include "headstart.image" (dict "image" .Values.trainer.image "tag" (printf "%s-train" .Chart.AppVersion)) -}}
{{- end -}}

{{/* Nothing of a container may change but its volumes. */}}
{{- define "headstart.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "headstart.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsUser }}
fsGroup: {{ .Values.runAsUser }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The account's token and the cluster's authority, for the daemon's container alone: the trainer gets neither. */}}
{{- define "headstart.accountVolume" -}}
name: account
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end -}}

{{- define "headstart.dataFolder" -}}/var/lib/headstart{{- end -}}
{{- define "headstart.configFolder" -}}/etc/headstart{{- end -}}
{{- define "headstart.tokenFolder" -}}/var/run/secrets/headstart{{- end -}}
