# What the scripts share; sourced, not run.
# shellcheck shell=bash

# shellcheck disable=SC2034 # used by those who source this
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=${NAMESPACE:-}

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}
# Wrong usage, as other tools have it.
misuse() {
    printf '%s: %s; see --help\n' "$(basename "$0")" "$*" >&2
    exit 2
}
# The value of an option, or a sentence if it is missing.
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
# The option to repeat in a command that we tell the user.
flag_namespace() { [ -n "$namespace" ] && printf ' -n %s' "$namespace"; true; }

need_gateway() {
    k get deployment mcp-gateway >/dev/null 2>&1 ||
        fail "there is no Deployment mcp-gateway$(in_namespace); run ./deploy.sh$(flag_namespace) first, or name its namespace with -n"
}
token() { k get secret mcp-gateway-secret -o "jsonpath={.data.api_key}" | base64 -d; }
