#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Deploys edge and servers into the cluster that kubectl points to, and waits until they are ready. Safe to run again: it
applies what changed and keeps the token.

  ./deploy.sh [options]
    -n, --namespace NAME   where to (made if it is missing; default: kubectl's own, or $NAMESPACE)
    --shape SHAPE          multi-pod (default): a pod for each server; sidecar: all in one pod
    --overlay NAME         also traefik, ingress, gateway-api, cloudflare-tunnel, tls, servicemonitor or replicas (two of
                           the edge, with multi-pod); may be repeated
    --host HOST            the name that clients use; overlays that lead in from outside need it
    --image IMAGE          the edge's image (default: mcp-edge:0.1.0)
    --timeout TIME         how long to wait for each Deployment (default: 180s)
    --dry-run              print what would be applied, and touch nothing

The token is in the Secret mcp-gateway-secret. It is made from $MCP_GATEWAY_AUTH_TOKEN, or at random, once. The key that
replicas share is in the Secret mcp-gateway-key. It is made from $MCP_EDGE_KEY, or at random, once.
TEXT
}

shape=multi-pod overlays=() host='' image='' timeout=180s dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=1; shift; continue ;;
        -n | --namespace) namespace=$(value "$@") ;;
        --shape) shape=$(value "$@") ;;
        --overlay) overlay=$(value "$@"); overlays+=("$overlay") ;;
        --host) host=$(value "$@") ;;
        --image) image=$(value "$@") ;;
        --timeout) timeout=$(value "$@") ;;
        *) misuse "there is no option $1" ;;
    esac
    shift 2
done
case $shape in multi-pod | sidecar) ;; *) misuse "--shape is multi-pod or sidecar, not $shape" ;; esac
for overlay in ${overlays[@]+"${overlays[@]}"}; do
    [ -d "$here/components/$overlay" ] || misuse "there is no overlay $overlay; there are: $(cd "$here/components" && echo *)"
    case $overlay in servicemonitor | replicas) continue ;; esac
    [ -n "$host" ] || misuse "--overlay $overlay needs --host, the name that clients use"
done
chosen=" ${overlays[*]-} "
if [[ $chosen = *" tls "* && $chosen =~ \ (traefik|ingress|gateway-api|cloudflare-tunnel)\  ]]; then
    misuse "--overlay tls ends TLS at the edge, and ${BASH_REMATCH[1]} expects plain HTTP there: take one of them (the Helm chart does most pairs)"
fi
if [[ $chosen = *" replicas "* && $shape = sidecar ]]; then
    misuse "--overlay replicas needs --shape multi-pod: in one pod each replica would bring all servers along"
fi
case $host in *[!A-Za-z0-9.-]*) misuse "--host is a name without scheme, port or path, not $host" ;; esac

# A kustomization of its own, beside the bases because kustomize takes relative paths alone.
work=$(mktemp -d "$here/.deploy.XXXXXX") || fail "cannot write to $here; run it from a checkout of yours"
trap 'rm -rf "$work"' EXIT
{
    printf 'resources: [../%s]\n' "$shape"
    if [ ${#overlays[@]} -gt 0 ]; then
        printf 'components:\n'
        printf '  - ../components/%s\n' "${overlays[@]}"
    fi
} >"$work/kustomization.yaml"
if [ -n "$image" ]; then
    name=${image%@*} digest='' tag=''
    case $image in *@*) digest=${image#*@} ;; esac
    case ${name##*/} in *:*) tag=${name##*:} name=${name%:*} ;; esac
    {
        printf 'images:\n  - name: mcp-edge\n    newName: "%s"\n' "$name"
        if [ -n "$digest" ]; then printf '    digest: "%s"\n' "$digest"; else printf '    newTag: "%s"\n' "${tag:-latest}"; fi
    } >>"$work/kustomization.yaml"
fi
render() {
    local rendered
    rendered=$(kubectl kustomize "$work") || fail "the manifests do not build; kubectl says why above"
    printf '%s\n' "$rendered" | sed "s/mcp-gateway\.example\.com/${host:-mcp-gateway.example.com}/g"
}

if [ -n "$dry_run" ]; then
    command -v kubectl >/dev/null || fail "kubectl is not on the PATH"
    render
    exit 0
fi

need_cluster
say "Cluster: $(kubectl config current-context 2>/dev/null || echo 'as kubectl finds it')$(in_namespace)"

if [ -n "$namespace" ] && ! kubectl get namespace "$namespace" >/dev/null 2>&1; then
    kubectl create namespace "$namespace"
fi

# secret NAME KEY [VALUE]: makes it from the value, or at random, unless it is there.
secret() {
    if k get secret "$1" >/dev/null 2>&1; then
        say "Secret $1 is there and stays as it is"
    else
        # Through standard input: arguments are seen by everybody on the machine.
        printf '%s' "${3:-$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n')}" |
            k create secret generic "$1" --from-file="$2=/dev/stdin"
    fi
}
secret mcp-gateway-secret api_key "${MCP_GATEWAY_AUTH_TOKEN:-}"
[[ $chosen != *" replicas "* ]] || secret mcp-gateway-key key "${MCP_EDGE_KEY:-}"

say "Applying $shape${overlays[*]:+ with ${overlays[*]}}"
render | k apply -f - || fail "the cluster did not take all of it; see above. An unknown kind means that the overlay's CRDs are not installed"

if [ "$shape" = sidecar ]; then
    left=$(k get deployments -l app=mcp-server,app.kubernetes.io/part-of=mcp-gateway -o name 2>/dev/null || true)
    [ -z "$left" ] || say "Left over from multi-pod, no longer used: ${left//$'\n'/ }. Remove with: kubectl delete$(flag_namespace) deployment,service,hpa,pdb -l app=mcp-server"
fi
if [[ $chosen != *" replicas "* ]]; then
    left=$(k get poddisruptionbudget -l app=mcp-gateway,app.kubernetes.io/part-of=mcp-gateway -o name 2>/dev/null || true)
    [ -z "$left" ] || say "Left over from replicas, keeps the node of a single edge from being drained: ${left//$'\n'/ }. Remove with: kubectl delete$(flag_namespace) pdb/mcp-gateway networkpolicy/mcp-gateway-peers"
fi

wait_for() {
    say "Waiting for $1"
    k rollout status "$1" --timeout="$timeout" && return
    k get pods -l "$2" || true
    k get events --field-selector type=Warning --sort-by=.lastTimestamp 2>/dev/null | tail -5 || true
    fail "$1 is not ready after $timeout; what is above usually tells why (an image that cannot be pulled, a Secret that is missing). More: kubectl$(flag_namespace) describe pod -l $2, and docs/troubleshooting.md"
}
if [ "$shape" = multi-pod ]; then
    for server in $(k get deployments -l app=mcp-server,app.kubernetes.io/part-of=mcp-gateway -o name); do
        wait_for "$server" app=mcp-server
    done
fi
wait_for deployment/mcp-gateway app=mcp-gateway

say "Ready."
say "  Reach it:  ./port-forward-mcp.sh$(flag_namespace)"
say "  Test it:   ./test.sh$(flag_namespace)"
say "  The token: kubectl$(flag_namespace) get secret mcp-gateway-secret -o jsonpath='{.data.api_key}' | base64 -d"
[ -z "$host" ] || say "  From outside: https://$host/mcp"
