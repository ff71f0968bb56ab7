#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Deploys the edge and its servers into the cluster that kubectl points to, and waits until they are ready. It may be run
again: it applies what changed and keeps the token.

  ./deploy.sh [options]
    -n, --namespace NAME   the namespace (created if it is missing; default: $NAMESPACE, else kubectl's current one)
    --shape SHAPE          multi-pod (default): a pod for each server; sidecar: all in one pod
    --overlay NAME         adds traefik, ingress, gateway-api, cloudflare-tunnel, tls, servicemonitor, prometheusrule or
                           replicas (two edges, multi-pod only); may be repeated
    --host HOST            the name that clients use; required by overlays that clients connect through
    --image IMAGE          the edge's image (default: mcp-edge:0.1.0)
    --timeout TIME         how long to wait for each Deployment (default: 180s)
    --dry-run              print what would be applied, and change nothing

The first run stores the token in the Secret mcp-gateway-secret, from $MCP_GATEWAY_AUTH_TOKEN or at random. With the overlay
replicas it stores the key that they share in the Secret mcp-gateway-key, from $MCP_EDGE_KEY or at random.
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
    case $overlay in servicemonitor | prometheusrule | replicas) continue ;; esac
    [ -n "$host" ] || misuse "--overlay $overlay needs --host, the name that clients use"
done
chosen=" ${overlays[*]-} "
if [[ $chosen = *" tls "* && $chosen =~ \ (traefik|ingress|gateway-api|cloudflare-tunnel)\  ]]; then
    misuse "--overlay tls ends TLS at the edge, and ${BASH_REMATCH[1]} expects plain HTTP there: take one of them (the Helm chart supports most pairs)"
fi
if [[ $chosen = *" replicas "* && $shape = sidecar ]]; then
    misuse "--overlay replicas needs --shape multi-pod: in one pod each replica would bring all servers along"
fi
case $host in *[!A-Za-z0-9.-]*) misuse "--host is a name without scheme, port or path, not $host" ;; esac

# A temporary kustomization, beside the bases because kustomize takes relative paths only.
work=$(mktemp -d "$here/.deploy.XXXXXX") || fail "cannot write to $here; run it from a checkout of your own"
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

# secret NAME KEY [VALUE]: creates the Secret from the value, or at random, unless it exists.
secret() {
    if k get secret "$1" >/dev/null 2>&1; then
        say "Secret $1 exists and stays as it is"
    else
        # Through standard input: every user of the machine can read the arguments of processes.
        printf '%s' "${3:-$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n')}" |
            k create secret generic "$1" --from-file="$2=/dev/stdin"
    fi
}
secret mcp-gateway-secret api_key "${MCP_GATEWAY_AUTH_TOKEN:-}"
[[ $chosen != *" replicas "* ]] || secret mcp-gateway-key key "${MCP_EDGE_KEY:-}"

say "Applying $shape${overlays[*]:+ with ${overlays[*]}}"
render | k apply -f - || fail "the cluster refused part of it; see above. An unknown kind means that the overlay's CRDs are not installed"

if [ "$shape" = sidecar ]; then
    left=$(k get deployments -l app=mcp-server,app.kubernetes.io/part-of=mcp-gateway -o name 2>/dev/null || true)
    [ -z "$left" ] || say "Left over from multi-pod and no longer used: ${left//$'\n'/ }. Remove with: kubectl delete$(flag_namespace) deployment,service,hpa,pdb -l app=mcp-server"
fi
if [[ $chosen != *" replicas "* ]]; then
    left=$(k get poddisruptionbudget -l app=mcp-gateway,app.kubernetes.io/part-of=mcp-gateway -o name 2>/dev/null || true)
    [ -z "$left" ] || say "Left over from replicas; it prevents the node of a single edge from being drained: ${left//$'\n'/ }. Remove with: kubectl delete$(flag_namespace) pdb/mcp-gateway networkpolicy/mcp-gateway-peers"
fi

wait_for() {
    say "Waiting for $1"
    k rollout status "$1" --timeout="$timeout" && return
    k get pods -l "$2" || true
    k get events --field-selector type=Warning --sort-by=.lastTimestamp 2>/dev/null | tail -5 || true
    fail "$1 is not ready after $timeout; the lines above usually show why (an image that cannot be pulled, a missing Secret). More: kubectl$(flag_namespace) describe pod -l $2, and docs/troubleshooting.md"
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
# The overlay tls brings no proxy: clients connect to the edge's own port.
[[ $chosen != *" tls "* ]] || host+=:8811
[ -z "$host" ] || say "  From outside: https://$host/mcp"
