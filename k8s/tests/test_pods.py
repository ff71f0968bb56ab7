"""Running pods: commands, arguments, addresses, environment and mounts come from the manifests, each pod has a network of its own,
and a client calls both servers through the edge."""

import copy
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from kubelet import NODE, Cluster
from processes import eventually
from rendered import find, load
from tools import SERVERS, TESTS, run

TOKEN = "a-token-for-the-tests"
SECRETS = {"mcp-gateway-secret": {"api_key": TOKEN}}
KEY = {"mcp-gateway-key": {"key": "a-key-for-the-tests-of-32-characters"}}


def start(cluster, shape, replicas=1):
    """Starts all pods, the edge's last, and waits until each is ready. Returns the edge's."""
    if shape == "multi-pod":
        for server in ("mcp-duckduckgo", "mcp-fetch"):
            for _ in range(replicas):
                cluster.wait_until_ready(cluster.start(find(cluster.documents, "Deployment", server)))
    pod = cluster.start(find(cluster.documents, "Deployment", "mcp-gateway"))
    cluster.wait_until_ready(pod)
    return pod


def call(cluster, url, *arguments):
    client = [SERVERS / "bin" / "python", TESTS / "client.py", url, *arguments]
    done = cluster.on_node(*client, env={**os.environ, "MCP_GATEWAY_AUTH_TOKEN": TOKEN}, ok=None)
    logs = [container.log.read_text() for pod in cluster.pods for container in pod.containers]
    assert done.returncode == 0, "\n".join([done.stderr, *logs])
    return json.loads(done.stdout)


def call_both(cluster, url, *options):
    """Calls both servers. Both refuse to fetch from a private address, each with a message of its own."""
    inside = json.dumps({"url": f"http://{NODE}:8000/"})
    report = call(cluster, url, *options, f"fetch={inside}", f"fetch_content={inside}")
    assert {"fetch", "fetch_content", "search"} <= set(report["tools"])
    assert "--allow-private-ips" in report["calls"]["fetch"]["text"], report
    assert "DDG_ALLOW_PRIVATE_URLS" in report["calls"]["fetch_content"]["text"], report


def check_process_one(pod):
    for container in pod.containers:
        status = pathlib.Path(f"/proc/{container.pid()}/status").read_text()
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        at = f"{pod.name}/{container.name}"
        assert values["NSpid"].split()[-1] == "1", at
        assert values["Uid"].split() == ["1000"] * 4 and values["Gid"].split() == ["1000"] * 4, at
        assert all(int(values[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), at
        assert values["NoNewPrivs"] == "1", at


@pytest.mark.parametrize(
    ("shape", "name"),
    [("sidecar", "base sidecar"), ("multi-pod", "base multi-pod"), ("sidecar", "helm4 sidecar-values"), ("multi-pod", "helm4 default-values")],
)
def test_a_client_calls_both_servers(shape, name, tmp_path):
    with Cluster(tmp_path, load(name), SECRETS) as cluster:
        pod = start(cluster, shape)
        url = f"http://{pod.address}:8811/mcp"
        call_both(cluster, url)
        call_both(cluster, url, "--mode", "legacy")
        for one in cluster.pods:
            check_process_one(one)
        answer = cluster.on_node("curl", "-sS", url).stdout
        assert "GET requires an active session" in answer
        if shape == "multi-pod":
            asked = (tmp_path / "names.log").read_text()
            assert "mcp-fetch.mcp.svc.cluster.local" in asked and "mcp-duckduckgo.mcp.svc.cluster.local" in asked
        else:
            check_bridges_apart(pod)

        rolled = cluster.pods[0] if name == "base multi-pod" else None
        if rolled:
            # Replace a server's pod while the edge holds idle connections: it takes --drain and the stop of its processes at most.
            stop_well(cluster, rolled, 20 + 7)
        with ThreadPoolExecutor() as threads:
            # No call is running: the edge stops after its 5 s for load balancers, and then the bridges stop at once.
            list(threads.map(lambda one: stop_well(cluster, one, 5), [one for one in cluster.pods if one is not rolled]))


def check_bridges_apart(pod):
    """In one pod: no bridge listens in the network, which all containers share, and no server sees the socket of another."""
    listening = run("nsenter", f"--net=/run/netns/{pod.namespace}", "ss", "--no-header", "--listening", "--tcp", "--numeric").stdout
    assert {line.split()[3].rpartition(":")[2] for line in listening.splitlines()} == {"8811", "9090"}
    for server in ("duckduckgo", "fetch"):
        sockets = pathlib.Path(f"/proc/{pod.container(f'mcp-{server}').pid()}/root/run/mcp")
        assert [path.name for path in sockets.iterdir()] == [server]
        assert (sockets / server / "sock").stat().st_mode & 0o777 == 0o660


def test_a_server_that_runs_as_another_user_shares_its_socket_with_the_edge(tmp_path):
    documents = load("helm4 sidecar-values")
    deployment = copy.deepcopy(find(documents, "Deployment", "mcp-gateway"))
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        if container["name"] == "mcp-fetch":
            container["securityContext"] |= {"runAsUser": 2000, "runAsGroup": 2000}
    with Cluster(tmp_path, documents, SECRETS) as cluster:
        pod = cluster.start(deployment)
        cluster.wait_until_ready(pod)
        call_both(cluster, f"http://{pod.address}:8811/mcp")


def stop_well(cluster, pod, seconds):
    """Ends a pod. Each process 1 must exit with 0 on SIGTERM, within `seconds` and a margin for a busy machine."""
    cluster.stop(pod)
    for container in pod.containers:
        assert container.process.returncode == 0, f"{container.name}: {container.log.read_text()}"
        assert container.ended_after < seconds + 5, f"{container.name} took {container.ended_after} s"


def test_the_edge_ends_tls_and_takes_a_new_certificate(tmp_path):
    """Overlay tls: Secret and ConfigMap are mounted as the kubelet mounts them, and a renewal needs no restart."""
    documents = load("sidecar with tls")
    first, second = certificate(tmp_path / "first"), certificate(tmp_path / "second")
    with Cluster(tmp_path, documents, {**SECRETS, "mcp-gateway-tls": first}) as cluster:
        pod = start(cluster, "sidecar")
        (tmp_path / "first.pem").write_text(first["tls.crt"])
        (tmp_path / "second.pem").write_text(second["tls.crt"])
        url = "https://mcp.example.org:8811/ready"

        def reaches(ca):
            resolve = f"mcp.example.org:8811:{pod.address}"
            return cluster.on_node("curl", "-fsS", "--cacert", ca, "--resolve", resolve, url, ok=None).returncode == 0

        assert reaches(tmp_path / "first.pem") and not reaches(tmp_path / "second.pem")
        cluster.project(pod.directory / "volumes" / "tls", second, 0o440, pod)
        eventually(lambda: reaches(tmp_path / "second.pem"))


def certificate(path):
    path.mkdir()
    options = ["-x509", "-nodes", "-days", "2", "-subj", "/CN=mcp.example.org", "-addext", "subjectAltName=DNS:mcp.example.org"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", path / "tls.key", "-out", path / "tls.crt"]
    run("openssl", "req", *options, *key)
    return {name: (path / name).read_text() for name in ("tls.crt", "tls.key")}


def test_two_bridges_without_addresses_of_their_own_cannot_share_a_pod(tmp_path):
    """Why each bridge of one pod needs a `--listen` of its own."""
    documents = load("base sidecar")
    deployment = find(documents, "Deployment", "mcp-gateway")
    spec = copy.deepcopy(deployment)
    for container in spec["spec"]["template"]["spec"]["containers"]:
        if container["name"] != "gateway":
            del container["args"][:2]
    with Cluster(tmp_path, documents, SECRETS) as cluster:
        pod = cluster.start(spec)
        bridges = [pod.container("mcp-duckduckgo"), pod.container("mcp-fetch")]
        ended = eventually(lambda: [one for one in bridges if one.process.poll() is not None])
        assert len(ended) == 1 and ended[0].process.returncode == 1
        assert "in use" in ended[0].log.read_text()


def test_a_server_with_two_pods_may_lose_one(tmp_path):
    with Cluster(tmp_path, load("base multi-pod"), SECRETS) as cluster:
        pod = start(cluster, "multi-pod", replicas=2)
        url = f"http://{pod.address}:8811/mcp"
        call_both(cluster, url)
        lost = [one for one in cluster.pods if one is not pod][::2]
        assert {one.template["metadata"]["labels"]["server"] for one in lost} == {"duckduckgo", "fetch"}
        with ThreadPoolExecutor() as threads:
            ending = [threads.submit(stop_well, cluster, one, 20 + 7) for one in lost]
            # While they stop, and after they are gone.
            call_both(cluster, url)
            for one in ending:
                one.result()
        call_both(cluster, url)


def post(cluster, pod, method, params, *, session="", port=8811):
    """Sends one request as a client with sessions does: (status, id of the session, body)."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if session:
        headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
    words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    words += ["--max-time", "60", "-d", json.dumps(message), "-w", "\n%{http_code} %header{mcp-session-id}"]
    done = cluster.on_node("curl", "-sS", *words, f"http://{pod.address}:{port}/mcp")
    text, _, last = done.stdout.rpartition("\n")
    status, _, opened = last.partition(" ")
    return int(status), opened, text


def metric(cluster, pod, name):
    lines = cluster.on_node("curl", "-sS", f"http://{pod.address}:9090/metrics").stdout.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"mcp_edge_{name} "))


def open_session(cluster, pod):
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    status, session, text = post(cluster, pod, "initialize", params)
    assert status == 200 and session, text
    return session


def call_in_session(cluster, pod, session):
    call = {"name": "fetch", "arguments": {"url": f"http://{NODE}:8000/"}}
    status, _, text = post(cluster, pod, "tools/call", call, session=session)
    return status, "--allow-private-ips" in text


def balancer(cluster, pods):
    """A load balancer like a Service: each request goes to the next pod, whatever session it belongs to."""
    servers = "\n".join(f"    server {pod.name} {pod.address}:8811" for pod in pods)
    times = "timeout connect 5s\n    timeout client 1h\n    timeout server 1h"
    config = cluster.directory / "balancer.cfg"
    config.write_text(
        f"defaults\n    mode http\n    {times}\nfrontend in\n    bind {NODE}:8811\n    default_backend edges\n"
        f"backend edges\n    balance roundrobin\n{servers}\n"
    )
    cluster.in_background("balancer", "haproxy", "-db", "-f", config)
    url = f"http://{NODE}:8811"
    eventually(lambda: cluster.on_node("curl", "-fsS", f"{url}/health", ok=None).returncode == 0)
    return f"{url}/mcp"


@pytest.mark.parametrize("name", ["overlay replicas", "helm4 replicas-values"])
def test_a_session_goes_on_at_each_of_several_edges(name, tmp_path):
    with Cluster(tmp_path, load(name), SECRETS | KEY) as cluster:
        deployment = find(cluster.documents, "Deployment", "mcp-gateway")
        first = start(cluster, "multi-pod")
        second = cluster.start(deployment)
        cluster.wait_until_ready(second)

        session = open_session(cluster, first)
        assert call_in_session(cluster, second, session) == (200, True)
        assert metric(cluster, second, "peer_requests_passed_total") == 1 == metric(cluster, first, "peer_requests_taken_total")
        other = open_session(cluster, second)
        assert other != session and call_in_session(cluster, first, other) == (200, True)
        # The peer port accepts only requests sealed with the key, whatever token they carry.
        status, _, text = post(cluster, first, "tools/list", {}, session=session, port=4445)
        assert status == 403 and "only replicas with the same keys" in text

        def passed():
            return sum(metric(cluster, pod, "peer_requests_passed_total") for pod in (first, second))

        before, url = passed(), balancer(cluster, [first, second])
        call_both(cluster, url, "--mode", "legacy")
        assert passed() > before
        call_both(cluster, url)

        # A rollout: the new replica starts before the old one stops, and forwards at once; sessions of the old one end.
        third = cluster.start(deployment)
        cluster.wait_until_ready(third)
        assert call_in_session(cluster, third, session) == (200, True)
        stop_well(cluster, first, 5)
        assert call_in_session(cluster, third, session) == (404, False)
        assert metric(cluster, third, "peer_gone_total") == 1
        assert call_in_session(cluster, third, other) == (200, True)


def test_edges_that_do_not_reach_each_other_know_only_their_own_sessions(tmp_path):
    """The symptoms without the component, or with different keys."""
    documents = load("overlay replicas")
    alone = find(load("base multi-pod"), "Deployment", "mcp-gateway")
    with Cluster(tmp_path, documents, SECRETS | KEY) as cluster:
        first = start(cluster, "multi-pod")
        stranger = copy.deepcopy(find(documents, "Deployment", "mcp-gateway"))
        for variable in stranger["spec"]["template"]["spec"]["containers"][0]["env"]:
            if variable["name"] == "MCP_EDGE_KEY":
                del variable["valueFrom"]
                variable["value"] = "another-key-of-at-least-32-characters"
        session = open_session(cluster, first)
        for deployment in (stranger, alone):
            pod = cluster.start(deployment)
            cluster.wait_until_ready(pod)
            assert call_in_session(cluster, pod, session) == (404, False)
        assert call_in_session(cluster, first, session) == (200, True)
