{{/* The image with the edge and the bridge. */}}
{{- define "mcp.image" -}}
{{- $i := .Values.image -}}
{{- if $i.digest }}{{ $i.repository }}@{{ $i.digest }}{{ else }}{{ $i.repository }}:{{ $i.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Labels of pods. The chart's version is not among them: it would replace every pod with each new chart. */}}
{{- define "mcp.podLabels" -}}
app.kubernetes.io/part-of: mcp-gateway
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of all other objects. */}}
{{- define "mcp.labels" -}}
{{ include "mcp.podLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{/* Labels of an object that others select by labels of the user, who may replace the chart's: a key that is rendered twice
     is refused by kubectl, and so is a value that is no text. Takes a dict of root and labels. */}}
{{- define "mcp.labelsWith" -}}
{{- $all := mergeOverwrite (dict "app" "mcp-gateway") (include "mcp.labels" .root | fromYaml) (deepCopy (.labels | default dict)) -}}
{{- range $name, $value := $all }}
{{ $name | quote }}: {{ if kindIs "string" $value }}{{ quote $value }}{{ else }}{{ toJson $value | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* nodeSelector, tolerations and affinity of a pod; takes the values that hold them. */}}
{{- define "mcp.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Refuses values that would render objects which do not work, or which let in more than they seem to. */}}
{{- define "mcp.checks" -}}
{{- $sidecar := eq .Values.shape "sidecar" -}}
{{- $names := list -}}
{{- range $server := .Values.servers -}}
{{- if has .name $names -}}
{{- fail (printf "servers: two of them are named %s" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- range $arg := .bridgeArgs -}}
{{- if regexMatch "^--listen(=|$)" $arg -}}
{{- fail (printf "servers: %s has --listen in `bridgeArgs`; the chart gives its bridge the one address that the edge alone reaches" $server.name) -}}
{{- end -}}
{{- end -}}
{{- if and (not .address) (regexMatch "^gateway(-admin|-peers)?$" .name) -}}
{{- fail (printf "servers: %s is reserved: the objects of such a server would have the names of the edge's own (mcp-%s); choose another name" .name .name) -}}
{{- end -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range list "blocked" "blocked6" -}}
{{- if not (kindIs "slice" (index $.Values.networkPolicy .)) -}}
{{- fail (printf "networkPolicy.%s: give a list; [] blocks nothing" .) -}}
{{- end -}}
{{- end -}}
{{- range .Values.servers -}}
{{- if .address -}}
{{- if and $sidecar (not .egress) -}}
{{- fail (printf "servers: with shape sidecar, %s (address) needs `egress` rules that name its address in `to`: they hold for the whole pod, and without `to` every server in it could connect to that port anywhere" .name) -}}
{{- end -}}
{{- range .egress -}}
{{- if and $sidecar (not .to) -}}
{{- fail "servers: with shape sidecar, each `egress` rule of a server with `address` needs `to`: the rule holds for all servers of the pod" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "mcp.config" . -}}
{{- range .Values.gateway.extraArgs -}}
{{- if regexMatch "^--config(=|$)" . -}}
{{- fail "gateway.extraArgs: --config would replace the file that the chart makes of `config` and `tls`; leave those out, or put your settings into `config`" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{/* Volumes: names are unique in a pod. Those that this pod does not have are free. */}}
{{- $ofGateway := list -}}
{{- if include "mcp.config" . }}{{ $ofGateway = append $ofGateway "config" }}{{ end -}}
{{- if .Values.tls.enabled }}{{ $ofGateway = append $ofGateway "tls" }}{{ end -}}
{{- if $sidecar -}}
{{- $ofGateway = append $ofGateway "docker-mcp-tools" -}}
{{- range .Values.servers -}}
{{- if not .address -}}
{{- $ofGateway = concat $ofGateway (list (printf "tmp-%s" .name) (printf "socket-%s" .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.gateway.extraVolumes -}}
{{- if has .name $ofGateway -}}
{{- fail (printf "gateway.extraVolumes: the pod already has a volume named %s; choose another name" .name) -}}
{{- end -}}
{{- $ofGateway = append $ofGateway .name -}}
{{- end -}}
{{- range $server := .Values.servers -}}
{{- if not $server.address -}}
{{- $ofPod := ternary $ofGateway (list "docker-mcp-tools" "tmp") $sidecar -}}
{{- range $server.volumes -}}
{{- if has .name $ofPod -}}
{{- fail (printf "servers: %s brings a volume named %s, and its pod already has one of that name%s; choose another name" $server.name .name (ternary " (with shape sidecar all servers share a pod)" "" $sidecar)) -}}
{{- end -}}
{{- $ofPod = append $ofPod .name -}}
{{- end -}}
{{- if $sidecar }}{{ $ofGateway = $ofPod }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The seconds that the edge's pod has to end: with shape sidecar the longest of the edge and all servers. After drain
     the edge needs up to 1.5 s more; with 3 there is some to spare. The edge itself refuses what is no duration. */}}
{{- define "mcp.grace" -}}
{{- $grace := .Values.gateway.terminationGracePeriodSeconds | int64 -}}
{{- range .Values.servers -}}
{{- if and (eq $.Values.shape "sidecar") (not .address) -}}
{{- $grace = max $grace (.terminationGracePeriodSeconds | default $.Values.serverDefaults.terminationGracePeriodSeconds | int64) -}}
{{- end -}}
{{- end -}}
{{- $drain := "25s" -}}{{/* the edge's default */}}
{{- $limits := get (.Values.config | default dict) "limits" -}}
{{- if kindIs "map" $limits }}{{ $drain = toString (get $limits "drain" | default $drain) }}{{ end -}}
{{- range .Values.gateway.extraArgs }}{{ if regexMatch "^--config(=|$)" . }}{{ $drain = "" }}{{ end }}{{ end -}}{{/* unknown */}}
{{- if regexMatch "^[0-9]+ *(ms|s|m|h)$" $drain -}}
{{- $ms := get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000) (regexFind "[a-z]+" $drain) -}}
{{- if lt (mul $grace 1000) (add 3000 (mul $ms (regexFind "[0-9]+" $drain | atoi))) -}}
{{- fail (printf "gateway.terminationGracePeriodSeconds: the edge's pod is killed after %d s, while it drains for %s; give it at least 3 s more than config.limits.drain" $grace $drain) -}}
{{- end -}}
{{- end -}}
{{- $grace -}}
{{- end -}}

{{- define "mcp.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The security context of every container; takes a dict of user and readOnly. */}}
{{- define "mcp.locked" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: {{ .readOnly }}
runAsNonRoot: true
runAsUser: {{ int64 .user }}
runAsGroup: {{ int64 .user }}
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The image has no shell, so `sh -c cp` cannot work: the bridge copies itself. */}}
{{- define "mcp.copyBridge" -}}
- name: copy-bridge
  image: {{ include "mcp.image" . | quote }}
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

{{/* A server's container. Takes a dict of server (with its defaults), listen ("" = port 4444 of all addresses), tmp and
     socket: the volumes that are mounted at /tmp, and where the socket of `listen` is ("" = none). */}}
{{- define "mcp.server" -}}
{{- $own := list -}}
{{- range .server.env }}{{ $own = append $own .name }}{{ end -}}
- name: mcp-{{ .server.name }}
  image: {{ .server.image | quote }}
  imagePullPolicy: {{ .server.pullPolicy }}
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
    {{- if not (has "HOME" $own) }}
    - name: HOME
      value: /tmp
    {{- end }}
    {{- if not (has "DOCKER_MCP_BRIDGE_MAX_CONNECTIONS" $own) }}
    - name: DOCKER_MCP_BRIDGE_MAX_CONNECTIONS
      value: {{ .server.maxConnections | int64 | quote }}
    {{- end }}
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
    - name: {{ .tmp | quote }}
      mountPath: /tmp
    {{- with .socket }}
    - name: {{ . | quote }}
      mountPath: {{ printf "/run/mcp/%s" $.server.name | quote }}
    {{- end }}
    {{- with .server.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Egress of a server's pod: DNS and the web, but nothing inside. Without ports there is no rule for the web: a rule
     without ports would open all of them. */}}
{{- define "mcp.webEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- with .Values.networkPolicy.webPorts }}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: {{ toJson $.Values.networkPolicy.blocked }}
    - ipBlock:
        cidr: ::/0
        except: {{ toJson $.Values.networkPolicy.blocked6 }}
  ports:
    {{- range . }}
    - {port: {{ int64 . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "mcp.secretName" -}}
{{ .Values.auth.existingSecret | default "mcp-gateway-secret" }}
{{- end -}}

{{/* The name of the Secret with the key that replicas share; "" where gateway.extraEnv brings the key. */}}
{{- define "mcp.keySecretName" -}}
{{- $own := false -}}
{{- range .Values.gateway.extraEnv }}{{ if eq .name "MCP_EDGE_KEY" }}{{ $own = true }}{{ end }}{{ end -}}
{{- if not $own }}{{ .Values.sessionKey.existingSecret | default "mcp-gateway-key" }}{{ end -}}
{{- end -}}

{{/* "yes" where there are several replicas of the edge, else "". */}}
{{- define "mcp.replicated" -}}
{{- if gt (int .Values.gateway.replicas) 1 -}}
{{- if eq .Values.shape "sidecar" -}}
{{- fail "gateway.replicas: with shape sidecar each replica would bring all servers along; take shape multi-pod, where each server has its own pods, or leave it at 1" -}}
{{- end -}}
yes
{{- end -}}
{{- end -}}

{{/* The edge's configuration file; "" where flags are enough. */}}
{{- define "mcp.config" -}}
{{- $config := deepCopy (.Values.config | default dict) -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $config "tls" (dict "cert" "/etc/mcp-gateway/tls/tls.crt" "key" "/etc/mcp-gateway/tls/tls.key") -}}
{{- end -}}
{{- if $config }}{{ toYaml $config }}{{ end -}}
{{- end -}}
