{{/*
What an application's own chart takes from here, with `keytally` among its dependencies. Each is called with the root context,
`include "keytally.sidecar" .`, from this chart or from one that has it as a subchart:

  keytally.podLabels  labels of the pod template
  keytally.sidecar    an item of spec.initContainers
  keytally.volumes    items of spec.volumes
  keytally.env        items of the application container's env: base URLs
  keytally.terminationGracePeriodSeconds
*/}}

{{/* This chart's values, wherever it is called from. As a subchart they are below `keytally`, with the chart's defaults. */}}
{{- define "keytally.values" -}}
{{- if eq .Chart.Name "keytally" -}}{{ toJson .Values }}{{- else -}}{{ toJson .Values.keytally }}{{- end -}}
{{- end }}

{{/* Name of everything: the release's, which is one application's. */}}
{{- define "keytally.name" -}}
{{- printf "%s-keytally" (.Release.Name | trunc 53 | trimSuffix "-") -}}
{{- end }}

{{- define "keytally.image" -}}
{{- $image := (include "keytally.values" . | fromJson).image -}}
{{- if $image.digest -}}{{ $image.repository }}@{{ $image.digest }}
{{- else -}}{{ $image.repository }}:{{ $image.tag | default (include "keytally.version" .) }}{{- end -}}
{{- end }}

{{/* appVersion of this chart; a calling chart has another one of its own. */}}
{{- define "keytally.version" -}}0.1.0{{- end }}

{{- define "keytally.podLabels" -}}
keytally: sidecar
keytally-release: {{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "keytally.env" -}}
{{- range $name, $path := (include "keytally.values" . | fromJson).baseUrls }}
- { name: {{ $name }}, value: "http://127.0.0.1:4141{{ $path }}" }
{{- end }}
{{- end }}

{{- define "keytally.sidecar" -}}
{{- $values := include "keytally.values" . | fromJson -}}
- name: keytally
  image: {{ include "keytally.image" . | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  # A native sidecar: the application starts once startupProbe has passed; it is told to stop after the application has ended.
  restartPolicy: Always
  args: ["serve"]
  env:
    - { name: KEYTALLY_CONFIG, value: /etc/keytally/keytally.yaml }
    - { name: KEYTALLY_ADMIN, value: {{ $values.admin | quote }} }
    - { name: KEYTALLY_LABELS, value: {{ printf "app=%s" ($values.app | default .Release.Name) | quote }} }
    - { name: OTEL_SERVICE_NAME, value: {{ $values.app | default .Release.Name | quote }} }
    - { name: K8S_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
    - { name: K8S_POD, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    - { name: K8S_POD_UID, valueFrom: { fieldRef: { fieldPath: metadata.uid } } }
    - { name: K8S_NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
    - name: OTEL_RESOURCE_ATTRIBUTES
      value: k8s.namespace.name=$(K8S_NAMESPACE),k8s.pod.name=$(K8S_POD),k8s.pod.uid=$(K8S_POD_UID),k8s.node.name=$(K8S_NODE)
    {{- with $values.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - { name: keytally-admin, containerPort: 4140, protocol: TCP }
  startupProbe:
    httpGet: { path: /readyz, port: keytally-admin }
    periodSeconds: 1
    failureThreshold: 30
  readinessProbe:
    httpGet: { path: /readyz, port: keytally-admin }
    periodSeconds: 10
  livenessProbe:
    httpGet: { path: /livez, port: keytally-admin }
    periodSeconds: 10
    failureThreshold: 6
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: { drop: [ALL] }
    seccompProfile: { type: RuntimeDefault }
  volumeMounts:
    # The directory, not a subPath of it, which would never change.
    - { name: keytally, mountPath: /etc/keytally, readOnly: true }
    {{- if $values.storage.volume }}
    - { name: keytally-state, mountPath: /var/lib/keytally }
    {{- end }}
{{- end }}

{{- define "keytally.volumes" -}}
{{- $values := include "keytally.values" . | fromJson -}}
- name: keytally
  configMap: { name: {{ include "keytally.name" . }} }
{{- with $values.storage.volume }}
- name: keytally-state
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "keytally.terminationGracePeriodSeconds" -}}
{{ (include "keytally.values" . | fromJson).terminationGracePeriodSeconds | int }}
{{- end }}
