{{/* The settings file: the user's, and what depends on how the chart runs the daemon. */}}
{{- define "headstart.settings" -}}
{{- $settings := deepCopy .Values.config -}}
{{- range list "apiVersion" "kind" "data_dir" "http" "ha" -}}
{{- if hasKey $settings . -}}
{{- fail (printf "config.%s: the chart sets this one; remove it (http.port, token, replicas and leaderElection are values of the chart)" .) -}}
{{- end -}}
{{- end -}}
{{- $http := dict "host" .Values.http.host "port" (.Values.http.port | int) "token_file" (printf "%s/%s" (include "headstart.tokenFolder" .) .Values.token.key) -}}
{{- $own := dict "apiVersion" "headstart/v1" "kind" "Config" "data_dir" (include "headstart.dataFolder" .) "http" $http -}}
{{- if .Values.leaderElection.enabled -}}
{{- $lease := dict "lease" (printf "%s/%s" .Release.Namespace (include "headstart.fullname" .)) "duration" .Values.leaderElection.duration "renew_deadline" .Values.leaderElection.renewDeadline "retry" .Values.leaderElection.retry -}}
{{- $_ := set $own "ha" $lease -}}
{{- end -}}
{{- mergeOverwrite $settings $own | toYaml -}}
{{- end -}}

{{/* host:port and scheme of the metrics server as a port number. */}}
{{- define "headstart.prometheusPort" -}}
{{- $url := urlParse ((.Values.config.prometheus | default dict).url | default "http://prometheus:9090") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}
