{{/*
What an application's own chart takes from here, with `keytally` among its dependencies. Each is called with the root context,
`include "keytally.sidecar" .`, from this chart or from one that has it as a subchart:

  keytally.podLabels  labels of the pod template
  keytally.sidecar    items of spec.initContainers
  keytally.volumes    items of spec.volumes
  keytally.env        items of the application container's env: base URLs, or with transparent.enabled the certificates
  keytally.volumeMounts  items of its volumeMounts; none without transparent.enabled
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
{{- $values := include "keytally.values" . | fromJson -}}
{{- if $values.transparent.enabled }}
{{- range $name := list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "CURL_CA_BUNDLE" "NODE_EXTRA_CA_CERTS" }}
- { name: {{ $name }}, value: /etc/keytally-ca/bundle.pem }
{{- end }}
{{- else }}
{{- range $name, $path := $values.baseUrls }}
- { name: {{ $name }}, value: "http://127.0.0.1:4141{{ $path }}" }
{{- end }}
{{- end }}
{{- end }}

{{/* The certificates alone; the CA's key beside them stays with the sidecar. */}}
{{- define "keytally.volumeMounts" -}}
{{- if (include "keytally.values" . | fromJson).transparent.enabled }}
- { name: keytally-ca, mountPath: /etc/keytally-ca/bundle.pem, subPath: bundle.pem, readOnly: true }
{{- end }}
{{- end }}

{{/* User of the sidecar. Distroless applications have 65532 too, and connections of the sidecar's user are not redirected. */}}
{{- define "keytally.user" -}}
{{- if (include "keytally.values" . | fromJson).transparent.enabled }}64141{{ else }}65532{{ end }}
{{- end }}

{{- define "keytally.security" -}}
runAsNonRoot: true
runAsUser: {{ include "keytally.user" . }}
runAsGroup: {{ include "keytally.user" . }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* Before the sidecar: the pod's CA, and the firewall's rules. */}}
{{- define "keytally.transparent" -}}
{{- $values := include "keytally.values" . | fromJson -}}
- name: keytally-ca
  image: {{ include "keytally.image" . | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  args: ["ca", "bundle"]
  env:
    - { name: KEYTALLY_CONFIG, value: /etc/keytally/keytally.yaml }
  resources:
    requests: { cpu: 10m, memory: 32Mi }
    limits: { memory: 64Mi }
  securityContext:
    {{- include "keytally.security" . | nindent 4 }}
  volumeMounts:
    - { name: keytally, mountPath: /etc/keytally, readOnly: true }
    - { name: keytally-ca, mountPath: /var/lib/keytally/ca }
- name: keytally-redirect
  image: {{ include "keytally.image" . | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  args: ["redirect", "install", "--uid", {{ include "keytally.user" . | quote }}]
  resources:
    requests: { cpu: 10m, memory: 32Mi }
    limits: { memory: 64Mi }
  securityContext:
    runAsUser: 0
    runAsNonRoot: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: { drop: [ALL], add: [NET_ADMIN] }
    seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "keytally.sidecar" -}}
{{- $values := include "keytally.values" . | fromJson -}}
{{- if $values.transparent.enabled }}
{{- include "keytally.transparent" . }}
{{ end -}}
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
    {{- include "keytally.security" . | nindent 4 }}
  volumeMounts:
    # The directory, not a subPath of it, which would never change.
    - { name: keytally, mountPath: /etc/keytally, readOnly: true }
    - { name: keytally-state, mountPath: /var/lib/keytally }
    {{- if $values.transparent.enabled }}
    - { name: keytally-ca, mountPath: /var/lib/keytally/ca }
    {{- end }}
{{- end }}

{{- define "keytally.volumes" -}}
{{- $values := include "keytally.values" . | fromJson -}}
- name: keytally
  configMap: { name: {{ include "keytally.name" . }} }
{{- if $values.transparent.enabled }}
# In memory: the CA's private key is on no disk.
- name: keytally-ca
  emptyDir: { medium: Memory, sizeLimit: 4Mi }
{{- end }}
# The kubelet evicts a pod that takes more than the limit: it is well above ledger.max_size (1GiB).
- name: keytally-state
  {{- $values.storage.volume | default (dict "emptyDir" (dict "sizeLimit" "2Gi")) | toYaml | nindent 2 }}
{{- end }}

{{- define "keytally.terminationGracePeriodSeconds" -}}
{{ (include "keytally.values" . | fromJson).terminationGracePeriodSeconds | int }}
{{- end }}
