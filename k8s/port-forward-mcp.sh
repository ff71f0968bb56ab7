#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Makes the edge in the cluster reachable at http://localhost:8811/mcp until Ctrl-C.

  ./port-forward-mcp.sh [-n NAMESPACE] [PORT]
TEXT
}

port=8811
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        -n | --namespace) namespace=$(value "$@"); shift 2 ;;
        -*) misuse "there is no option $1" ;;
        *) port=$1; shift ;;
    esac
done
case $port in '' | *[!0-9]*) misuse "$port is no port" ;; esac

need_cluster
need_gateway
# Whoever has the port keeps it.
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "something listens on port $port already; end it yourself if it is an older port-forward, or take another port: ./port-forward-mcp.sh$(flag_namespace) $((port + 1))"
fi
k wait --for=condition=Available deployment/mcp-gateway --timeout=60s ||
    fail "the edge is not ready; kubectl$(flag_namespace) describe pod -l app=mcp-gateway tells why, and docs/troubleshooting.md what to do"

cat <<TEXT
http://localhost:$port/mcp leads to the edge. In another terminal:

  export MCP_GATEWAY_AUTH_TOKEN=\$(kubectl$(flag_namespace) get secret mcp-gateway-secret -o jsonpath='{.data.api_key}' | base64 -d)
  mcp-edge check http://localhost:$port/mcp
  curl http://localhost:$port/mcp        # "GET requires an active session"

Ctrl-C ends it.
TEXT
if [ -n "$namespace" ]; then
    exec kubectl --namespace "$namespace" port-forward service/mcp-gateway "$port:8811"
fi
exec kubectl port-forward service/mcp-gateway "$port:8811"
