{{/* One training run. Exit 3 says that no model passed its examination, which is a result and no failure. */}}
{{- define "headstart.train" -}}
headstart train --data-dir {{ include "headstart.dataFolder" . }} --budget {{ .Values.trainer.budget }} --workers {{ .Values.trainer.workers }}
{{- end -}}

{{/* The sidecar's loop: wait for the time of day, train, again; a SIGTERM ends it at once. */}}
{{- define "headstart.nightly" -}}
{{- $clock := splitList ":" .Values.trainer.at -}}
at_s={{ add (mul (first $clock | trimPrefix "0" | default "0" | int) 3600) (mul (last $clock | trimPrefix "0" | default "0" | int) 60) }}
trap 'kill "$child" 2>/dev/null; exit 0' TERM INT
while :; do
  wait_s=$(( (at_s - $(date -u +%s) % 86400 + 86400) % 86400 ))
  [ "$wait_s" -gt 0 ] || wait_s=86400
  sleep "$wait_s" & child=$!; wait "$child"
  {{ include "headstart.train" . }} & child=$!; wait "$child"
  echo "headstart train: exit status $?; 0: a model passed, 3: none did, the models in use stay" >&2
done
{{- end -}}
