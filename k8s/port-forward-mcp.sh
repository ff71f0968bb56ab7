#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Makes the edge in the cluster reachable at http://localhost:8811/mcp until Ctrl-C (https where the edge serves TLS itself).

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
# Never take a port from another process.
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "port $port is in use; if by an older port-forward, end that yourself, or take another port: ./port-forward-mcp.sh$(flag_namespace) $((port + 1))"
fi
k wait --for=condition=Available deployment/mcp-gateway --timeout=60s ||
    fail "the edge is not ready; kubectl$(flag_namespace) describe pod -l app=mcp-gateway shows why, and docs/troubleshooting.md what to do"

scheme=$(scheme) insecure=''
[ "$scheme" = http ] || insecure='--insecure '
cat <<TEXT
$scheme://localhost:$port/mcp leads to the edge. In another terminal:

  export MCP_GATEWAY_AUTH_TOKEN=\$(kubectl$(flag_namespace) get secret mcp-gateway-secret -o jsonpath='{.data.api_key}' | base64 -d)
  mcp-edge check $scheme://localhost:$port/mcp
  curl $insecure$scheme://localhost:$port/mcp        # "GET requires an active session", or 401 with OAuth

TEXT
[ "$scheme" = http ] || cat <<TEXT
The certificate is for the host that you deployed with, so clients refuse it at localhost, and so does mcp-edge check. Let
that name lead to 127.0.0.1 (/etc/hosts), and use it in the URL.

TEXT
say "Ctrl-C ends it."
if [ -n "$namespace" ]; then
    exec kubectl --namespace "$namespace" port-forward service/mcp-gateway "$port:8811"
fi
exec kubectl port-forward service/mcp-gateway "$port:8811"
