{{/*
What the settings need in each namespace, as JSON: {"llm": {"kinds": {"Deployment": true}, "floors": [], "write": true, "marks": true}},
where a kind is true if its scale is written, and marks if pods that are to go may be marked. A namespace where everything is only observed gets no writing verb.
*/}}
{{- define "headstart.needs" -}}
{{- $needs := dict -}}
{{- $default := (.Values.config.defaults | default dict).mode | default "observe" -}}
{{- $asked := list -}}
{{- range .Values.config.workloads -}}
{{- $asked = append $asked (dict "at" .workload "mode" (.mode | default $default) "target" (.target | default dict)) -}}
{{- end -}}
{{- range .Values.config.placeholders -}}
{{- $asked = append $asked (dict "at" .placeholder "unmarked" true "mode" (.mode | default "observe") "target" (.target | default dict)) -}}
{{- end -}}
{{- range (.Values.config.discover | default dict).namespaces -}}
{{- $asked = append $asked (dict "at" . "mode" $default "target" dict) -}}
{{- end -}}
{{- range .Values.rbac.namespaces -}}
{{- $extra := . -}}
{{- range .kinds | default (list "Deployment") -}}
{{- $asked = append $asked (dict "at" $extra.name "mode" (ternary "active" "observe" ($extra.write | default false)) "target" (dict "kind" .)) -}}
{{- end -}}
{{- end -}}
{{- range $asked -}}
{{- $namespace := splitList "/" .at | first -}}
{{- $kind := .target.kind | default "Deployment" -}}
{{- $need := get $needs $namespace | default (dict "kinds" dict "floors" list "write" false "marks" false) -}}
{{- $_ := set $need.kinds $kind (or (eq .mode "active") (get $need.kinds $kind | default false)) -}}
{{- if eq .mode "floor" -}}
{{- $_ := set $need "floors" (append $need.floors ((.target.floor | default dict).kind | default "HorizontalPodAutoscaler") | uniq) -}}
{{- end -}}
{{- $_ := set $need "write" (or $need.write (has .mode (list "active" "floor"))) -}}
{{- $_ := set $need "marks" (or $need.marks (and (eq .mode "active") (eq $kind "Deployment") (not .unmarked))) -}}
{{- $_ := set $needs $namespace $need -}}
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
  verbs: {{ ternary (list "list" "patch") (list "list") (and ($values.config.deletion_cost | default false) $need.marks) | toJson }}
{{- if and $need.write $values.rbac.events }}
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create"]
{{- end }}
{{- $hpa := ternary (list "get") list (has "HorizontalPodAutoscaler" $need.floors) -}}
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
{{- if has "ScaledObject" $need.floors }}
- apiGroups: ["keda.sh"]
  resources: ["scaledobjects"]
  verbs: ["get", "patch"]
{{- end }}
{{- end -}}

{{/* All namespaces' needs as one, for a ClusterRole. */}}
{{- define "headstart.needsOfAll" -}}
{{- $all := dict "kinds" dict "floors" list "write" false "marks" false -}}
{{- range include "headstart.needs" . | fromJson -}}
{{- range $kind, $write := .kinds -}}
{{- $known := get $all.kinds $kind | default false -}}
{{- $_ := set $all.kinds $kind (or $known $write) -}}
{{- end -}}
{{- $_ := set $all "write" (or $all.write .write) -}}
{{- $_ := set $all "marks" (or $all.marks .marks) -}}
{{- $_ := set $all "floors" (concat $all.floors .floors | uniq) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}
