"""The chart with unusual values: what it renders of them, and what it refuses in words."""

import json

import kubernetes_validate
import pytest
import yaml

from rendered import NEWEST, OLDEST, find, objects, pods
from tools import CHART, HELM3, run

IMAGE = {"image": "registry.example.org/server:1", "command": ["serve"]}
ONE = {"name": "one", **IMAGE}
AWAY = {"name": "away", "address": "10.1.2.3:4444"}
TO_AWAY = {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 4444, "protocol": "TCP"}]}


def template(values, ok):
    return run(HELM3, "template", "mcp", CHART, "--kube-version", f"{OLDEST}.0", "--values", "-", ok=ok, input=json.dumps(values))


def rendered(**values):
    """The objects, each of them valid."""
    documents = objects(template(values, (0,)).stdout)
    for document in documents:
        if not any(group in document["apiVersion"] for group in ("traefik", "gateway.networking", "cert-manager", "monitoring")):
            kubernetes_validate.validate(document, NEWEST, strict=True)
    return documents


def refused(**values):
    """What the chart says of these values."""
    said = template(values, (1,)).stderr
    assert "nil pointer" not in said and "interface conversion" not in said and "error converting YAML" not in said, said
    return said


def policy(documents, name="mcp-gateway"):
    return find(documents, "NetworkPolicy", name)["spec"]


def edge_pod(documents):
    return find(documents, "Deployment", "mcp-gateway")["spec"]["template"]["spec"]


# Policies.


@pytest.mark.parametrize("ports", [[], None], ids=["empty", "null"])
@pytest.mark.parametrize(("shape", "name"), [("sidecar", "mcp-gateway"), ("multi-pod", "mcp-fetch")])
def test_no_web_ports_open_no_port(shape, name, ports):
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    documents = rendered(shape=shape, networkPolicy={"webPorts": ports})
    assert policy(documents, name)["egress"] == [{"ports": dns}]


@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_no_policy_opens_all_ports(shape):
    """A rule without ports means every port."""
    for values in ({}, {"webPorts": []}, {"webPorts": [443]}):
        for one in rendered(shape=shape, networkPolicy=values, gateway={"replicas": 1 if shape == "sidecar" else 2}):
            if one["kind"] == "NetworkPolicy":
                rules = one["spec"].get("egress", []) + one["spec"].get("ingress", [])
                assert rules and all(rule["ports"] for rule in rules), one["metadata"]["name"]


def test_azures_metadata_service_is_blocked():
    for shape, name in (("sidecar", "mcp-gateway"), ("multi-pod", "mcp-fetch")):
        (web,) = [rule for rule in policy(rendered(shape=shape), name)["egress"] if "to" in rule]
        assert {"168.63.129.16/32", "169.254.0.0/16"} <= set(web["to"][0]["ipBlock"]["except"])


def test_a_missing_block_list_is_refused():
    assert "networkPolicy.blocked: give a list" in refused(networkPolicy={"blocked": None})


def test_an_address_beside_servers_needs_a_rule_with_its_target():
    """In one pod a rule is every server's: without `to`, `fetch` would reach that port anywhere."""
    assert "needs `egress` rules that name its address in `to`" in refused(shape="sidecar", servers=[ONE, AWAY])
    open_to_all = {**AWAY, "egress": [{"ports": TO_AWAY["ports"]}]}
    assert "needs `to`" in refused(shape="sidecar", servers=[ONE, open_to_all])
    egress = policy(rendered(shape="sidecar", servers=[ONE, {**AWAY, "egress": [TO_AWAY]}]))["egress"]
    assert TO_AWAY in egress
    assert all("to" in rule or {port["port"] for port in rule["ports"]} == {53} for rule in egress)


def test_an_address_of_an_edge_that_is_alone_in_its_pod_needs_no_rule():
    ports = {"ports": TO_AWAY["ports"]}
    assert policy(rendered(servers=[ONE, AWAY]))["egress"][-1] == ports
    egress = policy(rendered(servers=[ONE, {**AWAY, "egress": [TO_AWAY]}]))["egress"]
    assert egress[-1] == TO_AWAY and ports not in egress


@pytest.mark.parametrize("arg", ["--listen=:4444", "--listen"])
@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_a_bridge_listens_nowhere_else(shape, arg):
    """--listen may be repeated: in one pod a bridge on TCP would be open to all servers of the pod."""
    said = refused(shape=shape, servers=[{**ONE, "bridgeArgs": ["--warm=2", arg]}])
    assert "servers: one has --listen in `bridgeArgs`" in said
    rendered(shape=shape, servers=[{**ONE, "bridgeArgs": ["--warm=2"], "command": ["serve", "--listen=:1"]}])


# Names.


@pytest.mark.parametrize("name", ["gateway", "gateway-admin", "gateway-peers"])
def test_names_of_the_edges_own_objects_are_refused(name):
    assert f"servers: {name} is reserved" in refused(servers=[{"name": name, **IMAGE}])


@pytest.mark.parametrize("name", ["-a", "a-", "A", "a_b", "a" * 21, ""])
def test_names_that_are_no_labels_are_refused(name):
    assert "servers.0.name" in refused(servers=[{"name": name, **IMAGE}])


@pytest.mark.parametrize("name", ["365", "on", "2e5", "null", "a", "a" * 20])
@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_names_that_yaml_takes_for_something_else_stay_text(name, shape):
    values = {"shape": shape, "servers": [{"name": name, **IMAGE}]}
    documents = rendered(**values)
    if shape == "multi-pod":
        assert find(documents, "Deployment", f"mcp-{name}")["spec"]["template"]["metadata"]["labels"]["server"] == name
        # Parsers differ (2e5 is a number to kubectl alone), so each label is in quotes.
        text = template(values, (0,)).stdout
        assert text.count("server: ") == text.count(f'server: "{name}"') > 5


def test_two_servers_of_one_name_are_refused():
    assert "two of them are named one" in refused(servers=[ONE, ONE])


# Variables and volumes.


def variables(container):
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names)), names
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_a_variable_of_the_user_replaces_the_charts(shape):
    env = [{"name": "HOME", "value": "/data"}, {"name": "DOCKER_MCP_BRIDGE_MAX_CONNECTIONS", "value": "3"}]
    extra = [{"name": "MCP_GATEWAY_AUTH_TOKEN", "value": "t"}, {"name": "MCP_EDGE_PEER_ADDRESS", "value": "10.0.0.1"}]
    replicas = 1 if shape == "sidecar" else 2
    documents = rendered(shape=shape, servers=[{**ONE, "env": env}], gateway={"extraEnv": extra, "replicas": replicas})
    found = {container["name"]: variables(container) for _, pod in pods(documents) for container in pod["spec"]["containers"]}
    assert found["mcp-one"] == {"HOME": "/data", "DOCKER_MCP_BRIDGE_MAX_CONNECTIONS": "3"}
    assert found["gateway"]["MCP_GATEWAY_AUTH_TOKEN"] == "t" and found["gateway"]["MCP_EDGE_PEER_ADDRESS"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"shape": "sidecar", "servers": [{**ONE, "volumes": [{"name": "data"}]}, {**ONE, "name": "two", "volumes": [{"name": "data"}]}]}, "two brings a volume named data"),
        ({"shape": "sidecar", "servers": [{**ONE, "volumes": [{"name": "tmp-one"}]}]}, "one brings a volume named tmp-one"),
        ({"servers": [{**ONE, "volumes": [{"name": "tmp"}]}]}, "one brings a volume named tmp"),
        ({"tls": {"enabled": True}, "gateway": {"extraVolumes": [{"name": "tls"}]}}, "already has a volume named tls"),
        ({"config": {"limits": {"sessions": 9}}, "gateway": {"extraVolumes": [{"name": "config"}]}}, "already has a volume named config"),
        ({"tls": {"enabled": True}, "gateway": {"extraVolumes": [{"name": "config"}]}}, "already has a volume named config"),
        ({"gateway": {"extraVolumes": [{"name": "data"}, {"name": "data"}]}}, "already has a volume named data"),
        ({"shape": "sidecar", "gateway": {"extraVolumes": [{"name": "socket-fetch"}]}}, "already has a volume named socket-fetch"),
        ({"shape": "sidecar", "gateway": {"extraVolumes": [{"name": "data"}]}, "servers": [{**ONE, "volumes": [{"name": "data"}]}]}, "one brings a volume named data"),
    ],
)
def test_two_volumes_of_one_name_in_a_pod_are_refused(values, sentence):
    assert sentence in refused(**values)


@pytest.mark.parametrize("name", ["config", "tls", "tmp-away", "socket-away"])
@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_names_of_volumes_that_a_pod_does_not_have_are_free(shape, name):
    volume = {"name": name, "configMap": {"name": "mine"}}
    away = {**AWAY, "egress": [TO_AWAY], "volumes": [{"name": name}]}  # nothing is deployed for it, so no volume either
    volumes = edge_pod(rendered(shape=shape, servers=[ONE, away], gateway={"extraVolumes": [volume]}))["volumes"]
    assert [one for one in volumes if one["name"] == name] == [volume]


def test_a_configuration_of_the_users_own_is_the_only_one():
    """As README.md shows it: with two `--config` the last wins, and without `tls` of the first the edge serves plain HTTP."""
    own = {
        "extraVolumes": [{"name": "config", "configMap": {"name": "mine"}}],
        "extraVolumeMounts": [{"name": "config", "mountPath": "/etc/mine", "readOnly": True}],
        "extraArgs": ["--config=/etc/mine/config.yaml"],
    }
    args = edge_pod(rendered(gateway=own))["containers"][0]["args"]
    assert [one for one in args if one.startswith("--config")] == ["--config=/etc/mine/config.yaml"]
    for extra in (["--config=/etc/mine/config.yaml"], ["--config", "/etc/mine/config.yaml"]):
        for more in ({"tls": {"enabled": True}}, {"config": {"limits": {"sessions": 9}}}):
            assert "gateway.extraArgs: --config" in refused(gateway={"extraArgs": extra}, **more)


def test_servers_of_pods_of_their_own_may_name_volumes_alike():
    volumes = [{"name": "data", "emptyDir": {}}]
    rendered(servers=[{**ONE, "volumes": volumes}, {**ONE, "name": "two", "volumes": volumes}])


@pytest.mark.parametrize("shape", ["sidecar", "multi-pod"])
def test_files_can_be_mounted_into_the_edge(shape):
    volume = {"name": "tokens", "secret": {"secretName": "mcp-tokens", "defaultMode": 288}}
    mount = {"name": "tokens", "mountPath": "/etc/mcp-gateway/tokens", "readOnly": True}
    pod = edge_pod(rendered(shape=shape, gateway={"extraVolumes": [volume], "extraVolumeMounts": [mount]}))
    assert volume in pod["volumes"] and mount in pod["containers"][0]["volumeMounts"]


# Pods.


def test_each_image_has_a_pull_policy_of_its_own():
    documents = rendered(
        image={"pullPolicy": "Never"},
        serverDefaults={"pullPolicy": "Always"},
        servers=[ONE, {**ONE, "name": "two", "pullPolicy": "IfNotPresent"}],
        cloudflareTunnel={"enabled": True, "pullPolicy": "Always"},
    )
    found = {}
    for _, pod in pods(documents):
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            found[container["name"]] = container["imagePullPolicy"]
    assert found == {"copy-bridge": "Never", "gateway": "Never", "mcp-one": "Always", "mcp-two": "IfNotPresent", "cloudflared": "Always"}


def test_each_pod_can_be_placed():
    def placed(arch):
        return {
            "nodeSelector": {"kubernetes.io/arch": arch},
            "tolerations": [{"key": arch, "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": arch}]}},
        }

    documents = rendered(
        gateway=placed("edge"),
        serverDefaults=placed("all"),
        servers=[ONE, {**ONE, "name": "two", **placed("two")}],
        cloudflareTunnel={"enabled": True, **placed("cloud")},
    )
    specs = {name: pod["spec"] for name, pod in pods(documents)}
    for name, arch in (("mcp-gateway", "edge"), ("mcp-one", "all"), ("mcp-two", "two"), ("cloudflared", "cloud")):
        for key, value in placed(arch).items():
            assert specs[name][key] == value, name


def test_pods_have_the_time_to_end_that_values_give_them():
    defaults = {"serverDefaults": {"terminationGracePeriodSeconds": 50}, "servers": [ONE, {**ONE, "name": "two", "terminationGracePeriodSeconds": 90}]}
    documents = rendered(gateway={"terminationGracePeriodSeconds": 70}, **defaults)
    assert {name: pod["spec"]["terminationGracePeriodSeconds"] for name, pod in pods(documents)} == {"mcp-gateway": 70, "mcp-one": 50, "mcp-two": 90}
    # In one pod they end together.
    assert edge_pod(rendered(shape="sidecar", **defaults))["terminationGracePeriodSeconds"] == 90
    assert edge_pod(rendered(shape="sidecar", gateway={"terminationGracePeriodSeconds": 100}))["terminationGracePeriodSeconds"] == 100


@pytest.mark.parametrize(
    ("drain", "grace", "fits"),
    [
        ("60s", 30, False),
        ("60s", 62, False),
        ("60s", 63, True),
        ("27s", 30, True),
        ("28s", 30, False),
        ("27001ms", 30, False),
        ("060 s", 62, False),
        ("1m", 62, False),
        ("1m", 63, True),
        ("1h", 3602, False),
        ("0s", 3, True),
        (None, 27, False),  # the 25 s of the edge
        (None, 28, True),
        ("soon", 30, True),  # the edge says what is wrong with it
        (60, 30, True),
    ],
)
def test_the_edge_has_the_time_to_drain(drain, grace, fits):
    values = {"gateway": {"terminationGracePeriodSeconds": grace}, "config": {"limits": {"drain": drain}} if drain is not None else {}}
    if fits:
        assert edge_pod(rendered(**values))["terminationGracePeriodSeconds"] == grace
    else:
        said = refused(**values)
        assert "gateway.terminationGracePeriodSeconds" in said and "at least 3 s more than config.limits.drain" in said
        assert (drain or "25s") in said and str(grace) in said


def test_the_time_to_drain_is_that_of_the_pod():
    """In one pod the longest of all servers counts. What stands in a file of the user is unknown."""
    rendered(shape="sidecar", config={"limits": {"drain": "40s"}}, serverDefaults={"terminationGracePeriodSeconds": 43})
    assert "limits.drain" in refused(shape="sidecar", config={"limits": {"drain": "40s"}}, serverDefaults={"terminationGracePeriodSeconds": 42})
    assert "limits.drain" in refused(config={"limits": {"drain": "40s"}}, serverDefaults={"terminationGracePeriodSeconds": 43})
    rendered(gateway={"terminationGracePeriodSeconds": 5, "extraArgs": ["--config=/etc/mine/config.yaml"]})
    for odd in (None, [], "x"):
        rendered(config={"limits": odd})


def test_a_new_version_of_the_chart_replaces_no_pod():
    for shape in ("sidecar", "multi-pod"):
        for name, pod in pods(rendered(shape=shape, cloudflareTunnel={"enabled": True})):
            assert "helm.sh/chart" not in pod["metadata"]["labels"], name
            assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "mcp-gateway"


def test_large_numbers_stay_numbers():
    server = {**ONE, "maxConnections": 1_000_000, "runAsUser": 4_000_000_000, "autoscaling": {"cpu": 1_000_000}}
    for shape in ("sidecar", "multi-pod"):
        documents = rendered(shape=shape, servers=[server], config={"limits": {"sessions": 1_000_000}})
        container = next(one for _, pod in pods(documents) for one in pod["spec"]["containers"] if one["name"] == "mcp-one")
        assert variables(container)["DOCKER_MCP_BRIDGE_MAX_CONNECTIONS"] == "1000000"
        assert container["securityContext"]["runAsUser"] == 4_000_000_000
        config = find(documents, "ConfigMap", "mcp-gateway-config")["data"]["config.yaml"]
        assert config.strip() == "limits:\n  sessions: 1000000"


# Labels.


class Unique(yaml.SafeLoader):
    """Refuses a map with one key twice, as kubectl does; PyYAML keeps the last."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize(("part", "kind"), [("serviceMonitor", "ServiceMonitor"), ("prometheusRule", "PrometheusRule")])
def test_labels_of_the_user_replace_the_charts_and_are_text(part, kind):
    labels = {"app": "mine", "release": True, "team": 1_000_000, "on": "365", "empty": "", "app.kubernetes.io/instance": "other"}
    text = template({part: {"enabled": True, "labels": labels}}, (0,)).stdout
    found = find([one for one in yaml.load_all(text, Unique) if one], kind, "mcp-gateway")["metadata"]["labels"]
    as_text = {"app": "mine", "release": "true", "team": "1000000", "on": "365", "empty": "", "app.kubernetes.io/instance": "other"}
    assert as_text.items() <= found.items()
    assert found["app.kubernetes.io/part-of"] == "mcp-gateway" and found["helm.sh/chart"].startswith("mcp-edge-")
    assert f"{part}.labels.release" in refused(**{part: {"enabled": True, "labels": {"release": {"a": "b"}}}})


# What is left out or written oddly.


def test_no_configuration_is_an_empty_one():
    assert rendered(config=None) and not [one for one in rendered(config=None) if one["kind"] == "ConfigMap"]


@pytest.mark.parametrize("key", ["tls", "image", "gateway", "serverDefaults", "networkPolicy", "auth", "service", "serviceMonitor"])
def test_a_part_that_is_null_is_named(key):
    assert f"{key} is required" in refused(**{key: None})
    if key == "tls":
        assert "certManager is required" in refused(tls={"enabled": True, "certManager": None})


@pytest.mark.parametrize("host", ["*.example.org", "https://mcp.example.org", "mcp.example.org:8811", "a b", ""])
def test_hosts_that_are_no_names_are_refused(host):
    assert "host: Does not match pattern" in refused(host=host, ingress={"enabled": True})


def test_texts_that_look_like_numbers_stay_texts():
    documents = rendered(
        cloudflareTunnel={"enabled": True, "tunnel": "12345", "credentialsSecret": "1"},
        auth={"existingSecret": "2", "secretKey": "on"},
        serviceMonitor={"enabled": True, "namespace": "365"},
        ingress={"enabled": True, "className": "3", "tlsSecret": "4"},
        tls={"enabled": True, "secretName": "5"},
        host="6",
    )
    tunnel = yaml.safe_load(find(documents, "ConfigMap", "cloudflared-config")["data"]["config.yaml"])
    assert tunnel["tunnel"] == "12345" and tunnel["ingress"][0]["hostname"] == "6"
    (certificate,) = [one for one in documents if one["kind"] == "Certificate"]
    assert certificate["spec"]["dnsNames"] == ["6"] and certificate["spec"]["secretName"] == "5"


def test_ingress_controllers_speak_tls_to_an_edge_that_does():
    annotations = find(rendered(ingress={"enabled": True}, tls={"enabled": True}), "Ingress", "mcp-gateway")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"
    assert annotations["haproxy.org/server-ssl"] == "true"
    assert annotations["haproxy-ingress.github.io/backend-protocol"] == "h1-ssl"
    plain = find(rendered(ingress={"enabled": True}), "Ingress", "mcp-gateway")["metadata"]["annotations"]
    assert not [name for name in plain if "ssl" in name or "protocol" in name]


def test_values_of_a_server_win_over_defaults_also_where_they_are_false():
    documents = rendered(servers=[{**ONE, "readOnlyRootFilesystem": False}])
    container = find(documents, "Deployment", "mcp-one")["spec"]["template"]["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
