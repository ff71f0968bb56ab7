"""Everything that is rendered is strictly valid, and keeps the promises of the documents."""

import base64
import json

import kubernetes_validate
import pytest

from rendered import COMPONENTS, EDGES, NAMES, NEWEST, OLDEST, containers, find, load, objects, pods, text
from tools import CHART, HELM3, ROOT, TESTS, TOOLS, run

CUSTOM = ("traefik.io/", "gateway.networking.k8s.io/", "cert-manager.io/", "monitoring.coreos.com/")
TYPES = {
    "IngressRoute": "@kubernetes-models/traefik/traefik.io/v1alpha1",
    "ServersTransport": "@kubernetes-models/traefik/traefik.io/v1alpha1",
    "Gateway": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
    "Certificate": "@kubernetes-models/cert-manager/cert-manager.io/v1",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
}


def is_custom(document):
    return document["apiVersion"].startswith(CUSTOM)


@pytest.mark.parametrize("version", (OLDEST, NEWEST))
@pytest.mark.parametrize("name", NAMES)
def test_objects_are_valid(name, version):
    documents = load(name)
    assert documents
    for document in documents:
        if not is_custom(document):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_validation_is_strict():
    document = find(load("base sidecar"), "Service", "mcp-gateway")
    wrong = {**document, "spec": {**document["spec"], "selectr": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def compile_custom(documents, tmp_path):
    """Compiles custom resources as literals of their types: TypeScript refuses unknown keys."""
    lines = [f'import type {{ I{kind} }} from "{module}";' for kind, module in TYPES.items()]
    lines += [
        f"export const o{i}: I{one['kind']} = {json.dumps(one)};" for i, one in enumerate(documents) if is_custom(one)
    ]
    crds = TESTS / "crds"
    source = crds / "node_modules" / f".{tmp_path.name}.mts"
    source.write_text("\n".join(lines) + "\n")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    try:
        return run(crds / "node_modules" / ".bin" / "tsc", *options, source, ok=None, cwd=crds)
    finally:
        source.unlink()


def test_custom_resources_are_valid(tmp_path):
    documents = [document for name in NAMES for document in load(name)]
    kinds = {document["kind"] for document in documents if is_custom(document)}
    assert kinds == set(TYPES)
    done = compile_custom(documents, tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_check_of_custom_resources_is_strict(tmp_path):
    route = find(load("overlay traefik"), "IngressRoute", "mcp-gateway")
    wrong = {**route, "spec": {**route["spec"], "entrypoints": []}}
    done = compile_custom([wrong], tmp_path)
    assert done.returncode != 0 and "entrypoints" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_locked_in(name):
    for pod, template in pods(load(name)):
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False, pod
        assert spec["automountServiceAccountToken"] is False, pod
        assert spec["serviceAccountName"] != "default", pod
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        for container in containers(template):
            context = container["securityContext"]
            at = f"{pod}/{container['name']}"
            assert context["runAsNonRoot"] is True and context["runAsUser"] >= 1000, at
            assert context["readOnlyRootFilesystem"] is True, at
            assert context["allowPrivilegeEscalation"] is False and context["privileged"] is False, at
            assert context["capabilities"] == {"drop": ["ALL"]}, at
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), at
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), at
        for container in spec["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= set(container), f"{pod}/{container['name']}"


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_that_users_have(name):
    documents = load(name)
    gateway = find(documents, "Deployment", "mcp-gateway")
    assert gateway["spec"]["selector"] == {"matchLabels": {"app": "mcp-gateway"}}
    assert gateway["spec"]["replicas"] == EDGES.get(name, 1)
    find(documents, "Service", "mcp-gateway")
    assert "gateway" in [container["name"] for container in gateway["spec"]["template"]["spec"]["containers"]]
    for _, template in pods(documents):
        names = [container["name"] for container in template["spec"].get("initContainers", [])]
        assert names in ([], ["copy-bridge"])
        for container in template["spec"]["containers"]:
            assert container["name"] in ("gateway", "cloudflared") or container["name"].startswith("mcp-")
    for document in documents:
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "mcp-gateway", document["metadata"]["name"]


@pytest.mark.parametrize("name", [name for name in NAMES if "sidecar" in name])
def test_bridges_of_one_pod_share_a_socket_with_the_edge_alone(name):
    """Containers of a pod share loopback, so all other servers could reach a bridge that listens there."""
    spec = find(load(name), "Deployment", "mcp-gateway")["spec"]["template"]["spec"]
    assert "hostAliases" not in spec
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    gateway = spec["containers"][0]
    servers = [container for container in spec["containers"] if container["name"] != "gateway"]
    assert gateway["name"] == "gateway" and len(servers) == 2
    for container in servers:
        server = container["name"].removeprefix("mcp-")
        listen = f"unix:/run/mcp/{server}/sock"
        assert container["args"].count("--listen") == 1
        assert container["args"][container["args"].index("--listen") + 1] == listen
        assert f"--server={server}={listen}" in gateway["args"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"][-2:] == ["--check", listen]
        (mounted,) = [mount for mount in container["volumeMounts"] if mount["mountPath"].startswith("/run")]
        assert mounted["mountPath"] == f"/run/mcp/{server}" and "emptyDir" in volumes[mounted["name"]]
        holders = [one["name"] for one in spec["containers"] for mount in one.get("volumeMounts", []) if mount["name"] == mounted["name"]]
        assert holders == ["gateway", container["name"]]


def test_only_the_edge_reaches_the_servers():
    documents = load("base multi-pod")
    policy = find(documents, "NetworkPolicy", "mcp-server")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"app": "mcp-server"}}
    assert policy["ingress"] == [
        {
            "from": [{"podSelector": {"matchLabels": {"app": "mcp-gateway"}}}],
            "ports": [{"port": 4444, "protocol": "TCP"}],
        }
    ]
    for pod, template in pods(documents):
        selected = template["metadata"]["labels"].get("app") == "mcp-server"
        assert selected == (pod != "mcp-gateway")


@pytest.mark.parametrize("name", NAMES)
def test_several_edges_reach_each_other_and_one_does_not_try(name):
    documents = load(name)
    if name not in EDGES:
        assert "peers" not in text(name) and "MCP_EDGE_PEER_ADDRESS" not in text(name)
        return
    edges = {"matchLabels": {"app": "mcp-gateway"}}
    deployment = find(documents, "Deployment", "mcp-gateway")["spec"]
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert all(one["labelSelector"] == edges and one["whenUnsatisfiable"] == "ScheduleAnyway" for one in spread)
    container = deployment["template"]["spec"]["containers"][0]
    assert container["name"] == "gateway" and "--peers=[::]:4445" in container["args"]
    assert {"mcp": 8811, "admin": 9090, "peers": 4445} == {one["name"]: one["containerPort"] for one in container["ports"]}
    variables = {one["name"]: one["valueFrom"] for one in container["env"]}
    assert len(variables) == len(container["env"])
    assert variables["MCP_EDGE_PEER_ADDRESS"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    key = "mcp-edge-key" if "options" in name else "mcp-gateway-key"
    assert variables["MCP_EDGE_KEY"] == {"secretKeyRef": {"name": key, "key": "key"}}
    assert find(documents, "PodDisruptionBudget", "mcp-gateway")["spec"] == {"minAvailable": 1, "selector": edges}


@pytest.mark.parametrize("name", EDGES)
def test_only_edges_reach_the_port_of_replicas(name):
    documents = load(name)
    edges = {"matchLabels": {"app": "mcp-gateway"}}
    policy = find(documents, "NetworkPolicy", "mcp-gateway-peers")["spec"]
    assert policy["podSelector"] == edges
    assert policy["ingress"] == [{"from": [{"podSelector": edges}], "ports": [{"port": "peers", "protocol": "TCP"}]}]
    assert policy["egress"] == [{"to": [{"podSelector": edges}], "ports": [{"port": 4445, "protocol": "TCP"}]}]
    # Policies add up: no other one may open that port, and a rule without ports would open all.
    others = [one["spec"] for one in documents if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] != "mcp-gateway-peers"]
    opened = [port["port"] for one in others if one["podSelector"] == edges for rule in one["ingress"] for port in rule["ports"]]
    assert opened and set(opened) <= {"mcp", "admin"}


def test_the_chart_makes_the_key_of_replicas_unless_it_is_given_one():
    def rendered(*settings):
        options = [word for setting in settings for word in ("--set", setting)]
        return objects(run(HELM3, "template", "mcp", CHART, "--kube-version", f"{OLDEST}.0", *options).stdout)

    def keys(documents):
        return [one for one in documents if one["kind"] == "Secret" and one["metadata"]["name"] == "mcp-gateway-key"]

    (secret,) = keys(rendered("gateway.replicas=2"))
    assert len(base64.b64decode(secret["data"]["key"])) >= 32
    assert keys(rendered()) == keys(load("helm3 options-values")) == []
    documents = rendered("gateway.replicas=2", "sessionKey.existingSecret=mine", "sessionKey.secretKey=session")
    assert keys(documents) == []
    env = find(documents, "Deployment", "mcp-gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "MCP_EDGE_KEY", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "session"}}} in env


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("gateway.replicas=2,shape=sidecar", "take shape multi-pod"),
        ("gateway.replicas=0", "greater than or equal to 1"),
        ("gatewayApi.enabled=true,tls.enabled=true", "end TLS in the Gateway alone"),
    ],
)
def test_the_chart_says_what_does_not_go_together(settings, sentence):
    done = run(HELM3, "template", "mcp", CHART, "--kube-version", f"{OLDEST}.0", "--set", settings, ok=(1,))
    assert sentence in done.stderr


@pytest.mark.parametrize("name", ["base multi-pod", "helm3 default-values", "helm4 default-values"])
def test_servers_scale_by_themselves(name):
    documents = load(name)
    for server in ("mcp-duckduckgo", "mcp-fetch"):
        deployment = find(documents, "Deployment", server)["spec"]
        assert "replicas" not in deployment  # an apply must not set back what the autoscaler chose
        assert len(deployment["template"]["spec"]["topologySpreadConstraints"]) == 2
        scaler = find(documents, "HorizontalPodAutoscaler", server)["spec"]
        assert scaler["scaleTargetRef"]["name"] == server and scaler["minReplicas"] >= 2
        assert find(documents, "Service", server)["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("name", NAMES)
def test_services_lead_to_ports_that_exist(name):
    documents = load(name)
    templates = [template for _, template in pods(documents)]
    for service in (one for one in documents if one["kind"] == "Service"):
        selector = service["spec"]["selector"]
        chosen = [t for t in templates if selector.items() <= t["metadata"]["labels"].items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        ports = {port["name"] for container in chosen[0]["spec"]["containers"] for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_mounted_exists(name):
    documents = load(name)
    configs = {one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap"}
    for pod, template in pods(documents):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        for container in containers(template):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes, f"{pod}/{container['name']}"
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs
        accounts = {one["metadata"]["name"] for one in documents if one["kind"] == "ServiceAccount"}
        assert template["spec"]["serviceAccountName"] in accounts


@pytest.mark.parametrize("name", NAMES)
def test_there_is_time_to_drain(name):
    """The edge drains for 25 s and needs at most 3 s more. A bridge needs its preStop, 20 s for connections and 7 s for its servers."""
    for pod, template in pods(load(name)):
        needs = [28]
        for container in template["spec"]["containers"]:
            if container["name"].startswith("mcp-"):
                needs.append(container["lifecycle"]["preStop"]["sleep"]["seconds"] + 27)
        assert template["spec"]["terminationGracePeriodSeconds"] >= max(needs), pod


@pytest.mark.parametrize("component", COMPONENTS)
def test_hosts_are_replaced(component):
    rendered = json.dumps(load(f"multi-pod with {component}"))
    assert "example.com" not in rendered
    assert ("mcp.example.org" in rendered) == (component not in ("servicemonitor", "prometheusrule", "replicas"))


def test_dockerfiles_and_scripts_pass_their_linters():
    run(TOOLS / "hadolint", ROOT / "Dockerfile.bridge", ROOT / "Dockerfile.edge")
    scripts = sorted((ROOT / "k8s").glob("*.sh"))
    assert len(scripts) == 5
    run("shellcheck", "-x", *scripts, TESTS / "install", cwd=ROOT / "k8s")
