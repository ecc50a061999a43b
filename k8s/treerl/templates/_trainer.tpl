{{- /* Template of the trainer's pods. Takes the root. */ -}}
{{- define "treerl.trainerPod" -}}
{{- $trainer := dict "root" . "component" "trainer" }}
{{- $name := printf "%s-trainer" (include "treerl.fullname" .) }}
{{- $nodes := int .Values.trainer.nodes }}
metadata:
  labels:
    {{- include "treerl.labels" $trainer | nindent 4 }}
  annotations:
    cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    karpenter.sh/do-not-disrupt: "true"
    {{- include "treerl.podAnnotations" $trainer | nindent 4 }}
spec:
  restartPolicy: Never
  subdomain: {{ $name }}
  {{- include "treerl.pod" $trainer | nindent 2 }}
  {{- if .Values.demo.enabled }}
  {{- include "treerl.waitForDemo" $trainer | nindent 2 }}
  {{- end }}
  containers:
    - name: trainer
      {{- include "treerl.container" $trainer | nindent 6 }}
      {{- if gt $nodes 1 }}
      command: [python, -m, torch.distributed.run]
      args:
        - --nnodes={{ $nodes }}
        - --nproc-per-node={{ .Values.trainer.processesPerNode }}
        - --node-rank=$(JOB_COMPLETION_INDEX)
        - --master-addr={{ $name }}-0.{{ $name }}
        - --master-port=29500
        - -m
        # Else torchrun would take some of the trainer's flags for its own.
        - --
        - services.trainer
        - --config
        - /etc/treerl/config.toml
      {{- else }}
      args: [--config, /etc/treerl/config.toml]
      {{- end }}
      env:
        {{- include "treerl.environment" $trainer | nindent 8 }}
        - name: TREERL_TRAINER_MODEL
          value: {{ include "treerl.model" . }}
        - name: TREERL_TRAINER_OUTPUT_DIR
          value: {{ include "treerl.runFolder" . }}
        - name: TREERL_TRAINER_SAMPLERS
          value: {{ include "treerl.samplerAddresses" . | squote }}
        - name: TREERL_TRAINER_WEIGHTS_TRANSPORT
          value: {{ .Values.weightsTransport }}
        {{- if eq .Values.weightsTransport "broadcast" }}
        - name: TREERL_TRAINER_BROADCAST_HOST
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        {{- end }}
        # As long as a sampler may take to start, for the trainer starts beside it.
        - name: TREERL_TRAINER_RELOAD_PATIENCE_S
          value: {{ add .Values.sampler.startupSeconds 60 | quote }}
        {{- if eq $nodes 1 }}
        - name: TREERL_TRAINER_PROCESSES
          value: {{ .Values.trainer.processesPerNode | quote }}
        {{- end }}
        {{- if .Values.demo.enabled }}
        - name: TREERL_TRAINER_TRAIN_DATA
          value: /data/demo/train.jsonl
        - name: TREERL_TRAINER_HELDOUT_DATA
          value: /data/demo/heldout.jsonl
        {{- else }}
        {{- with .Values.trainData }}
        - name: TREERL_TRAINER_TRAIN_DATA
          value: {{ . | quote }}
        {{- end }}
        {{- with .Values.heldoutData }}
        - name: TREERL_TRAINER_HELDOUT_DATA
          value: {{ . | quote }}
        {{- end }}
        {{- end }}
        {{- with .Values.trainer.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if eq $nodes 1 }}
      {{- include "treerl.probes" (dict "root" . "startupSeconds" 300) | nindent 6 }}
      {{- else }}
      # Only the first process serves.
      readinessProbe:
        exec:
          command:
            - sh
            - -c
            - '[ "$JOB_COMPLETION_INDEX" != 0 ] || python -m services.common.health 127.0.0.1:50051'
        timeoutSeconds: 10
        periodSeconds: 30
      {{- end }}
      resources:
        {{- include "treerl.resources" .Values.trainer | nindent 8 }}
      volumeMounts:
        {{- include "treerl.mounts" $trainer | nindent 8 }}
        {{- include "treerl.modelMounts" $trainer | nindent 8 }}
        - name: data
          mountPath: /data
  volumes:
    {{- include "treerl.volumes" $trainer | nindent 4 }}
    {{- include "treerl.modelVolumes" $trainer | nindent 4 }}
{{- end -}}
