# Functions that the scripts share; sourced, not run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # used by those who source this
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=${NAMESPACE:-}

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
# Wrong usage: exit code 2, as in other tools.
misuse() {
    printf '%s: %s; see --help\n' "$(basename "$0")" "$*" >&2
    exit 2
}
# value OPTION VALUE: prints the value, or ends with a sentence if it is missing.
value() {
    [ -n "${2:-}" ] || misuse "$1 needs a value"
    printf '%s' "$2"
}

k() { kubectl ${namespace:+--namespace "$namespace"} "$@"; }

need_cluster() {
    command -v kubectl >/dev/null ||
        fail "kubectl is not on the PATH; install it (https://kubernetes.io/docs/tasks/tools/) and try again"
    local said
    said=$(kubectl version --request-timeout=10s 2>&1) ||
        fail "the cluster does not answer; check \`kubectl config current-context\` and that the cluster runs. kubectl says: ${said##*$'\n'}"
}
in_namespace() { [ -n "$namespace" ] && printf ' in namespace %s' "$namespace"; true; }
# The option to add to a command that is shown to the user.
flag_namespace() { [ -n "$namespace" ] && printf ' -n %s' "$namespace"; true; }

need_gateway() {
    k get deployment mcp-gateway >/dev/null 2>&1 ||
        fail "there is no Deployment mcp-gateway$(in_namespace); run ./deploy.sh$(flag_namespace) first, or name its namespace with -n"
}
# https where the edge serves TLS itself: the overlay tls and the chart mount its certificate as the volume tls.
scheme() {
    [ -n "$(k get deployment mcp-gateway -o 'jsonpath={.spec.template.spec.volumes[?(@.name=="tls")].name}')" ] && echo https || echo http
}
token() { k get secret mcp-gateway-secret -o "jsonpath={.data.api_key}" | base64 -d; }
