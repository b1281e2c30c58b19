{{/*
What the settings need in each namespace, as JSON: {"llm": {"kinds": {"Deployment": {"write": true}}, "floor": false,
"write": true}}. A namespace where every workload is only observed gets no writing verb.
*/}}
{{- define "headstart.needs" -}}
{{- $needs := dict -}}
{{- $default := (.Values.config.defaults | default dict).mode | default "observe" -}}
{{- range .Values.config.workloads -}}
{{- $namespace := splitList "/" .workload | first -}}
{{- $kind := (.target | default dict).kind | default "Deployment" -}}
{{- $mode := .mode | default $default -}}
{{- $need := get $needs $namespace | default (dict "kinds" dict "write" false "floor" false) -}}
{{- $known := get $need.kinds $kind | default false -}}
{{- $_ := set $need.kinds $kind (or $known (eq $mode "active")) -}}
{{- $_ := set $need "write" (or $need.write (has $mode (list "active" "floor"))) -}}
{{- $_ := set $need "floor" (or $need.floor (eq $mode "floor")) -}}
{{- $_ := set $needs $namespace $need -}}
{{- end -}}
{{- range .Values.rbac.namespaces -}}
{{- $extra := . -}}
{{- $need := get $needs .name | default (dict "kinds" dict "write" false "floor" false) -}}
{{- range .kinds | default (list "Deployment") -}}
{{- $known := get $need.kinds . | default false -}}
{{- $_ := set $need.kinds . (or $known ($extra.write | default false)) -}}
{{- end -}}
{{- $_ := set $need "write" (or $need.write (.write | default false)) -}}
{{- $_ := set $needs .name $need -}}
{{- end -}}
{{- range .Values.placeholders.groups -}}
{{- $need := get $needs .namespace | default (dict "kinds" dict "write" false "floor" false) -}}
{{- $_ := set $need.kinds "Deployment" true -}}
{{- $_ := set $need "write" true -}}
{{- $_ := set $needs .namespace $need -}}
{{- end -}}
{{- toJson $needs -}}
{{- end -}}

{{/* The rules of one need: {need, values}. The same as in deploy/rbac.yaml, for the kinds that are there. */}}
{{- define "headstart.rules" -}}
{{- $values := .values -}}
{{- $need := .need -}}
{{- $known := mergeOverwrite (dict "Deployment" (dict "group" "apps" "resource" "deployments" "list" true) "StatefulSet" (dict "group" "apps" "resource" "statefulsets" "list" true) "LeaderWorkerSet" (dict "group" "leaderworkerset.x-k8s.io" "resource" "leaderworkersets")) $values.rbac.kinds -}}
{{- range $kind, $write := $need.kinds -}}
{{- $where := get $known $kind -}}
{{- if not $where -}}
{{- fail (printf "config.workloads has the kind %s, whose resource the chart does not know: add rbac.kinds.%s: {group: …, resource: …}" $kind $kind) -}}
{{- end }}
{{- if $where.list }}
- apiGroups: [{{ $where.group | quote }}]
  resources: [{{ $where.resource | quote }}]
  verbs: ["list"]
{{- end }}
- apiGroups: [{{ $where.group | quote }}]
  resources: ["{{ $where.resource }}/scale"]
  verbs: {{ ternary (list "get" "patch") (list "get") $write | toJson }}
{{- end }}
- apiGroups: [""]
  resources: ["pods"]
  verbs: {{ ternary (list "list" "patch") (list "list") (and $values.rbac.deletionCost $need.write) | toJson }}
{{- if and $need.write $values.rbac.events }}
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create"]
{{- end }}
{{- $hpa := ternary (list "get") list (and $need.floor (has "HorizontalPodAutoscaler" $values.rbac.floors)) -}}
{{- if and $values.rbac.rivals (has true (values $need.kinds)) -}}
{{- $hpa = append $hpa "list" -}}
{{- end -}}
{{- if has "get" $hpa -}}
{{- $hpa = append $hpa "patch" -}}
{{- end }}
{{- with $hpa }}
- apiGroups: ["autoscaling"]
  resources: ["horizontalpodautoscalers"]
  verbs: {{ toJson . }}
{{- end }}
{{- if and $need.floor (has "ScaledObject" $values.rbac.floors) }}
- apiGroups: ["keda.sh"]
  resources: ["scaledobjects"]
  verbs: ["get", "patch"]
{{- end }}
{{- end -}}

{{/* All namespaces' needs as one, for a ClusterRole. */}}
{{- define "headstart.needsOfAll" -}}
{{- $all := dict "kinds" dict "write" false "floor" false -}}
{{- range include "headstart.needs" . | fromJson -}}
{{- range $kind, $write := .kinds -}}
{{- $known := get $all.kinds $kind | default false -}}
{{- $_ := set $all.kinds $kind (or $known $write) -}}
{{- end -}}
{{- $_ := set $all "write" (or $all.write .write) -}}
{{- $_ := set $all "floor" (or $all.floor .floor) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}
