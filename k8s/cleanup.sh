#!/usr/bin/env bash
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
Removes what deploy.sh created: objects with the label app.kubernetes.io/part-of=mcp-gateway that Helm does not own. The
Secrets with the token and the replicas' key stay, and so does the namespace. It may be run again.

  ./cleanup.sh [-n NAMESPACE] [--secret] [--dry-run]
    --secret    removes both Secrets too; afterwards every client needs a new token
    --dry-run   only list what would be removed
TEXT
}

secret='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        -n | --namespace) namespace=$(value "$@"); shift 2 ;;
        --secret) secret=1; shift ;;
        --dry-run) dry_run=1; shift ;;
        *) misuse "there is no option $1" ;;
    esac
done

need_cluster
ours=app.kubernetes.io/part-of=mcp-gateway,app.kubernetes.io/managed-by!=Helm
kinds=deployment.apps,service,serviceaccount,configmap,networkpolicy.networking.k8s.io,ingress.networking.k8s.io,horizontalpodautoscaler.autoscaling,poddisruptionbudget.policy
# Kinds that overlays use, where the cluster has them.
known=$(kubectl api-resources -o name) || fail "the cluster does not list its kinds; ask for the right to discover them"
for kind in ingressroutes.traefik.io serverstransports.traefik.io gateways.gateway.networking.k8s.io \
    httproutes.gateway.networking.k8s.io certificates.cert-manager.io servicemonitors.monitoring.coreos.com prometheusrules.monitoring.coreos.com; do
    ! grep -qx "$kind" <<<"$known" || kinds+=,$kind
done

found=$(k get "$kinds" -l "$ours" -o name) || fail "the objects cannot be listed; ask for the right to list them"
if [ -z "$found" ]; then
    say "There is nothing to remove$(in_namespace)."
else
    say "Removing$(in_namespace):"
    say "$found"
    [ -n "$dry_run" ] || k delete "$kinds" -l "$ours" --ignore-not-found
fi
for name in mcp-gateway-secret mcp-gateway-key; do
    k get secret "$name" >/dev/null 2>&1 || continue
    if [ -z "$secret" ]; then
        say "The Secret $name stays; --secret removes it."
    else
        say "Removing the Secret $name"
        [ -n "$dry_run" ] || k delete secret "$name" --ignore-not-found
    fi
done
