{{- define "treerl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What a pod of a component is found by. Takes a dict of root and component. */ -}}
{{- define "treerl.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "treerl.labels" -}}
{{ include "treerl.selector" . }}
app.kubernetes.io/part-of: treerl
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "treerl.metadata" -}}
name: {{ include "treerl.fullname" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "treerl.labels" . | nindent 2 }}
{{- end -}}

{{- /* Image of a component: the verifier has one, sampler and trainer one for CPUs and one for GPUs. */ -}}
{{- define "treerl.image" -}}
{{- $of := index .root.Values .component -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{- if ne .component "verifier" -}}
{{- $tag = printf "%s-%s" $tag (ternary "gpu" "cpu" (gt (int $of.gpus) 0)) -}}
{{- end -}}
{{- printf "%s%s:%s" .root.Values.image.registry $of.repository (default $tag $of.tag) -}}
{{- end -}}

{{- define "treerl.claim" -}}
{{- default (printf "%s-data" (include "treerl.fullname" .)) .Values.storage.existingClaim -}}
{{- end -}}

{{- define "treerl.runFolder" -}}
/data/runs/{{ .Values.run }}
{{- end -}}

{{- define "treerl.model" -}}
{{- if .Values.demo.enabled -}}/data/demo/policy{{- else -}}
{{- required "model is the folder of the policy in the containers, such as /inputs/model; or set demo.enabled" .Values.model -}}
{{- end -}}
{{- end -}}

{{- /* Each sampler by its name, so that one that restarts is waited for; or, where they are scaled, those that are ready. */ -}}
{{- define "treerl.samplerAddresses" -}}
{{- $name := printf "%s-sampler" (include "treerl.fullname" .) -}}
{{- $addresses := list -}}
{{- if eq .Values.sampler.autoscaling.kind "none" -}}
{{- range until (int .Values.sampler.replicas) -}}
{{- $addresses = append $addresses (printf "%s-%d.%s:50051" $name . $name) -}}
{{- end -}}
{{- else -}}
{{- $addresses = append $addresses (printf "dns:%s-ready:50051" $name) -}}
{{- end -}}
{{- $addresses | toJson -}}
{{- end -}}

{{- /* What every service is told beside its file; the environment wins over the file. */ -}}
{{- define "treerl.environment" -}}
- name: TREERL_RUN
  value: {{ .root.Values.run | quote }}
- name: TREERL_REDIS_URL
  {{- if .root.Values.externalRedis.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.externalRedis.existingSecret }}
      key: {{ .root.Values.externalRedis.key }}
  {{- else }}
  value: redis://{{ include "treerl.fullname" .root }}-redis:6379/0
  {{- end }}
- name: TREERL_HOST
  value: 0.0.0.0
- name: TREERL_{{ upper .component }}_PORT
  value: "50051"
- name: TREERL_{{ upper .component }}_METRICS_PORT
  value: "9100"
{{- end -}}

{{- /* Peers of a NetworkPolicy: all pods between which weights are broadcast. Takes the root. */ -}}
{{- define "treerl.broadcastGroup" -}}
{{- range list "sampler" "trainer" }}
- podSelector:
    matchLabels:
      {{- include "treerl.selector" (dict "root" $ "component" .) | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "treerl.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "treerl.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Annotations by which a change of the configuration starts a component's pods anew. */ -}}
{{- define "treerl.podAnnotations" -}}
checksum/config: {{ include (print .root.Template.BasePath "/config.yaml") .root | sha256sum }}
{{- with (index .root.Values .component).podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The fields that the pods of all services share. */ -}}
{{- define "treerl.pod" -}}
{{- $of := index .root.Values .component -}}
serviceAccountName: {{ include "treerl.fullname" .root }}
automountServiceAccountToken: false
# Else a Service called treerl-sampler would set TREERL_SAMPLER_PORT, and the sampler would read it as a setting.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $of.gracePeriodSeconds }}
securityContext:
  {{- include "treerl.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $of.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    labelSelector:
      matchLabels:
        {{- include "treerl.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* The fields that the containers of all services share. */ -}}
{{- define "treerl.container" -}}
image: {{ include "treerl.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "treerl.containerSecurity" . | nindent 2 }}
ports:
  - name: grpc
    containerPort: 50051
  - name: metrics
    containerPort: 9100
{{- end -}}

{{- define "treerl.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int (default 0 .gpus)) 0 -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict "nvidia.com/gpu" (int .gpus))) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- /* Asks the health service: by the kubelet itself, or by a process in the container before Kubernetes 1.24. */ -}}
{{- define "treerl.healthProbe" -}}
{{- if semverCompare ">=1.24.0-0" .Capabilities.KubeVersion.Version -}}
grpc:
  port: 50051
{{- else -}}
exec:
  command: [python, -m, services.common.health, "127.0.0.1:50051"]
{{- end }}
timeoutSeconds: 5
{{- end -}}

{{- /* Up to SERVING; then while SERVING; and, since a service may refuse work on purpose, alive while it shows metrics. */ -}}
{{- define "treerl.probes" -}}
startupProbe:
  {{- include "treerl.healthProbe" .root | nindent 2 }}
  periodSeconds: 5
  failureThreshold: {{ ceil (divf .startupSeconds 5) }}
readinessProbe:
  {{- include "treerl.healthProbe" .root | nindent 2 }}
  periodSeconds: 5
livenessProbe:
  httpGet:
    path: /metrics
    port: metrics
  timeoutSeconds: 10
  periodSeconds: 20
  failureThreshold: 6
{{- end -}}

{{- /* Callers learn that a pod goes before it refuses them. */ -}}
{{- define "treerl.lifecycle" -}}
preStop:
  exec:
    command: [sleep, "5"]
{{- end -}}

{{- define "treerl.volumes" -}}
- name: config
  configMap:
    name: {{ include "treerl.fullname" .root }}-config
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "treerl.mounts" -}}
- name: config
  mountPath: /etc/treerl
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- /* Volumes of the services that read models: the runs' folders, the user's inputs, memory that processes share. */ -}}
{{- define "treerl.modelVolumes" -}}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "treerl.claim" .root }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ (index .root.Values .component).sharedMemory }}
{{- with .root.Values.inputs.existingClaim }}
- name: inputs
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end -}}

{{- define "treerl.modelMounts" -}}
- name: shared-memory
  mountPath: /dev/shm
{{- if .root.Values.inputs.existingClaim }}
- name: inputs
  mountPath: /inputs
  readOnly: true
{{- end }}
{{- end -}}

{{- /* Where the demo's policy is trained: nothing starts before it is on the volume. */ -}}
{{- define "treerl.waitForDemo" -}}
initContainers:
  - name: wait-for-demo
    image: {{ include "treerl.image" . }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    securityContext:
      {{- include "treerl.containerSecurity" . | nindent 6 }}
    command: [sh, -c, "until [ -d /data/demo ]; do echo waiting for the demo's policy; sleep 5; done"]
    resources:
      requests: {cpu: 10m, memory: 16Mi}
      limits: {cpu: 100m, memory: 64Mi}
    volumeMounts:
      - name: data
        mountPath: /data
        readOnly: true
{{- end -}}
