{{/* The image of edge and bridge. */}}
{{- define "mcp.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest }}{{ $i.repository }}@{{ $i.digest }}{{ else }}{{ $i.repository }}:{{ $i.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "mcp.labels" -}}
app.kubernetes.io/part-of: mcp-gateway
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "mcp.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What every container is locked into; takes a dict of user and readOnly. */}}
{{- define "mcp.locked" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: {{ .readOnly }}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* No shell in this image, so no `sh -c cp`: the bridge copies itself. */}}
{{- define "mcp.copyBridge" -}}
- name: copy-bridge
  image: {{ include "mcp.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/misc/docker-mcp-bridge, --install, /docker-mcp/misc]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {cpu: 100m, memory: 32Mi}
  securityContext:
    {{- include "mcp.locked" (dict "user" 1000 "readOnly" true) | nindent 4 }}
  volumeMounts:
    - name: docker-mcp-tools
      mountPath: /docker-mcp
{{- end -}}

{{/* A server's container. Takes a dict of root, server (with its defaults), listen ("" = all addresses) and tmp. */}}
{{- define "mcp.server" -}}
- name: mcp-{{ .server.name }}
  image: {{ .server.image }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [/docker-mcp/misc/docker-mcp-bridge]
  args:
    {{- if .listen }}
    - --listen
    - {{ .listen | quote }}
    {{- end }}
    {{- range .server.bridgeArgs }}
    - {{ . | quote }}
    {{- end }}
    - --
    {{- range .server.command }}
    - {{ . | quote }}
    {{- end }}
  {{- if not .listen }}
  ports:
    - name: mcp
      containerPort: 4444
  {{- end }}
  env:
    - name: HOME
      value: /tmp
    - name: DOCKER_MCP_BRIDGE_MAX_CONNECTIONS
      value: {{ .server.maxConnections | quote }}
    {{- with .server.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .server.envFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- range $probe, $timing := dict
        "startupProbe" (dict "periodSeconds" 1 "failureThreshold" 60)
        "readinessProbe" (dict "periodSeconds" 10 "timeoutSeconds" 5)
        "livenessProbe" (dict "periodSeconds" 30 "timeoutSeconds" 5) }}
  {{ $probe }}:
    {{- if $.listen }}
    exec:
      command: [/docker-mcp/misc/docker-mcp-bridge, --check, {{ $.listen | quote }}]
    {{- else }}
    tcpSocket:
      port: mcp
    {{- end }}
    {{- toYaml $timing | nindent 4 }}
  {{- end }}
  lifecycle:
    preStop:
      sleep:
        seconds: 10
  resources:
    {{- toYaml .server.resources | nindent 4 }}
  securityContext:
    {{- include "mcp.locked" (dict "user" .server.runAsUser "readOnly" .server.readOnlyRootFilesystem) | nindent 4 }}
  volumeMounts:
    - name: docker-mcp-tools
      mountPath: /docker-mcp
      readOnly: true
    - name: {{ .tmp }}
      mountPath: /tmp
    {{- with .server.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Out of a server's pod: names and the web, but not what is inside. */}}
{{- define "mcp.webEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: {{ toJson .Values.networkPolicy.blocked }}
    - ipBlock:
        cidr: ::/0
        except: {{ toJson .Values.networkPolicy.blocked6 }}
  ports:
    {{- range .Values.networkPolicy.webPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{- define "mcp.secretName" -}}
{{ .Values.auth.existingSecret | default "mcp-gateway-secret" }}
{{- end -}}

{{/* The Secret with the key that replicas share; "" where gateway.extraEnv brings the key. */}}
{{- define "mcp.keySecretName" -}}
{{- $own := false -}}
{{- range .Values.gateway.extraEnv }}{{ if eq .name "MCP_EDGE_KEY" }}{{ $own = true }}{{ end }}{{ end -}}
{{- if not $own }}{{ .Values.sessionKey.existingSecret | default "mcp-gateway-key" }}{{ end -}}
{{- end -}}

{{/* "yes" where there are several replicas of the edge, else "". */}}
{{- define "mcp.replicated" -}}
{{- if gt (int .Values.gateway.replicas) 1 -}}
{{- if eq .Values.shape "sidecar" -}}
{{- fail "gateway.replicas: with shape sidecar each replica would bring all servers along; take shape multi-pod, where a server has pods of its own, or leave it at 1" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}

{{/* The edge's configuration file, "" where flags say all. */}}
{{- define "mcp.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $config "tls" (dict "cert" "/etc/mcp-gateway/tls/tls.crt" "key" "/etc/mcp-gateway/tls/tls.key") -}}
{{- end -}}
{{- if $config }}{{ toYaml $config }}{{ end -}}
{{- end -}}
