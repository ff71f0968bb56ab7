#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Tests the edge in the cluster as a client would, through a port-forward of its own, which it ends afterwards.

  ./test.sh [-n NAMESPACE] [--https]
    --https   the edge serves TLS itself; by default the script finds out. The certificate is for another name than
              127.0.0.1, so it is not verified
TEXT
}

scheme='' curl_tls=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        -n | --namespace) namespace=$(value "$@"); shift 2 ;;
        --https) scheme=https; shift ;;
        *) misuse "there is no option $1" ;;
    esac
done

command -v curl >/dev/null || fail "curl is not on the PATH; install it and try again"
need_cluster
need_gateway
[ -n "$scheme" ] || scheme=$(scheme)
# HTTP/1.1: some releases of curl fail over HTTP/2 (error 92) where a refusal comes before their request is sent.
[ "$scheme" = http ] || curl_tls=(--insecure --http1.1)
say "Pods:"
k get pods -l 'app in (mcp-gateway,mcp-server)'
token=$(token) || fail "the Secret mcp-gateway-secret cannot be read$(in_namespace); run ./deploy.sh$(flag_namespace), or ask for the right to read it"

work=$(mktemp -d)
forward=''
trap 'if [ -n "$forward" ]; then kill "$forward" 2>/dev/null; wait "$forward" 2>/dev/null || true; fi; rm -rf "$work"' EXIT
# Port 0: the kernel chooses a free one.
if [ -n "$namespace" ]; then
    kubectl --namespace "$namespace" port-forward service/mcp-gateway :8811 >"$work/forward" 2>&1 &
else
    kubectl port-forward service/mcp-gateway :8811 >"$work/forward" 2>&1 &
fi
forward=$!
port=''
for _ in $(seq 100); do
    port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$work/forward")
    [ -z "$port" ] || break
    kill -0 "$forward" 2>/dev/null || break
    sleep 0.1
done
[ -n "$port" ] || fail "the port-forward did not start; kubectl says: $(cat "$work/forward")"
url=$scheme://127.0.0.1:$port

failed=0
# expect WHAT STATUS|STATUS… WORD CURL-ARGUMENTS…: the answer must have one of these statuses and match this word.
expect() {
    local what=$1 status=$2 word=$3 got
    shift 3
    got=$(curl -sS ${curl_tls[@]+"${curl_tls[@]}"} --max-time 60 -o "$work/body" -w '%{http_code}' "$@" 2>"$work/error") || got="no answer ($(cat "$work/error"))"
    if [[ "|$status|" = *"|$got|"* ]] && grep -q -- "$word" "$work/body"; then
        say "ok    $what"
    else
        say "FAIL  $what: wanted $status with \"$word\", got $got $(head -c 300 "$work/body" 2>/dev/null)"
        failed=1
    fi
    : >"$work/body"
}
# The header is in a file: every user of the machine can read the arguments of processes.
printf 'header = "Authorization: Bearer %s"\n' "$token" >"$work/auth"
list='{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}'
post=(-H 'Content-Type: application/json' -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/list' -d "$list" "$url/mcp")

expect "it is alive" 200 ok "$url/health"
expect "it is ready" 200 '' "$url/ready"
# With OAuth it is 401, which leads clients to the authorization server.
expect "a bare GET is refused" '405|401' 'GET requires an active session\|Authorization' "$url/mcp"
expect "a request without the token is refused" 401 'Authorization' "${post[@]}"
expect "the tools of its servers" 200 '"name"' -K "$work/auth" "${post[@]}"

[ "$failed" = 0 ] || fail "something is wrong; docs/troubleshooting.md lists causes by symptom. The edge's log: kubectl$(flag_namespace) logs deployment/mcp-gateway -c gateway"
say "No problem found."
