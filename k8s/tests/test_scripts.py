"""The scripts, with a kubectl that records commands (fake/kubectl)."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from processes import edge_with_demo_server, eventually
from tools import K8S, KUBECTL, TESTS, run


class Cluster:
    def __init__(self, directory):
        self.directory = directory
        path = f"{TESTS / 'fake'}:{os.environ['PATH']}"
        state = {"FAKE": str(directory), "FAKE_KUBECTL": str(KUBECTL), "FAKE_PYTHON": sys.executable}
        without = {"NAMESPACE", "MCP_GATEWAY_AUTH_TOKEN", "MCP_EDGE_KEY"}
        self.env = {name: value for name, value in os.environ.items() if name not in without}
        self.env |= {"PATH": path, **state}

    def run(self, script, *arguments, ok=(0,), **env):
        return run(K8S / script, *arguments, ok=ok, env={**self.env, **env}, cwd="/", timeout=60)

    def calls(self):
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def objects(self):
        return {path.name for path in (self.directory / "objects").iterdir()}

    def say(self, name, text=""):
        (self.directory / name).write_text(text)


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_deploy_twice_is_once(cluster):
    first = cluster.run("deploy.sh", "-n", "mcp")
    objects = cluster.objects()
    assert {"mcp.deployment.mcp-gateway", "mcp.deployment.mcp-fetch", "mcp.secret.mcp-gateway-secret"} <= objects
    assert ".namespace.mcp" in objects
    secret = (cluster.directory / "objects" / "mcp.secret.mcp-gateway-secret").read_text()
    assert len(json.loads(secret)["token"]) >= 32
    assert "./port-forward-mcp.sh -n mcp" in first.stdout
    second = cluster.run("deploy.sh", "-n", "mcp")
    assert "stays as it is" in second.stdout
    assert "created" not in second.stdout
    assert cluster.objects() == objects
    assert (cluster.directory / "objects" / "mcp.secret.mcp-gateway-secret").read_text() == secret
    waited = [call for call in cluster.calls() if "rollout" in call]
    assert {call[4] for call in waited} == {"deployment/mcp-duckduckgo", "deployment/mcp-fetch", "deployment/mcp-gateway"}
    # Folders of other tests that run the script at this moment disappear too.
    left = set(K8S.glob(".deploy.*"))
    eventually(lambda: not left & set(K8S.glob(".deploy.*")))


def test_deploy_takes_the_token_and_shows_it_to_nobody(cluster):
    done = cluster.run("deploy.sh", MCP_GATEWAY_AUTH_TOKEN="very-secret-token")
    secret = cluster.directory / "objects" / "default.secret.mcp-gateway-secret"
    assert json.loads(secret.read_text())["token"] == "very-secret-token"
    assert "very-secret-token" not in done.stdout + done.stderr
    assert "very-secret-token" not in json.dumps(cluster.calls())


def test_deploy_of_replicas_makes_their_key_once(cluster):
    secret = cluster.directory / "objects" / "default.secret.mcp-gateway-key"
    cluster.run("deploy.sh")
    assert not secret.exists()
    cluster.run("deploy.sh", "--overlay", "replicas")
    key = json.loads(secret.read_text())["token"]
    assert len(key) >= 32 and key != json.loads(secret.with_name("default.secret.mcp-gateway-secret").read_text())["token"]
    gateway = json.loads((cluster.directory / "objects" / "default.deployment.mcp-gateway").read_text())
    assert gateway["spec"]["replicas"] == 2
    cluster.say("crds", "ingressroutes.traefik.io\nserverstransports.traefik.io")
    again = cluster.run("deploy.sh", "--overlay", "replicas", "--overlay", "traefik", "--host", "mcp.example.org")
    assert "Secret mcp-gateway-key exists and stays as it is" in again.stdout and "Left over" not in again.stdout
    assert json.loads(secret.read_text())["token"] == key
    assert key not in again.stdout + again.stderr + json.dumps(cluster.calls())
    one = cluster.run("deploy.sh")
    assert "Left over from replicas" in one.stdout and "pdb/mcp-gateway networkpolicy/mcp-gateway-peers" in one.stdout
    assert "mcp-gateway-key stays" in cluster.run("cleanup.sh").stdout and secret.exists()
    cluster.run("cleanup.sh", "--secret")
    assert not cluster.objects()


def test_deploy_takes_the_key_and_shows_it_to_nobody(cluster):
    done = cluster.run("deploy.sh", "--overlay", "replicas", MCP_EDGE_KEY="k" * 32)
    secret = cluster.directory / "objects" / "default.secret.mcp-gateway-key"
    assert json.loads(secret.read_text())["token"] == "k" * 32
    assert "k" * 32 not in done.stdout + done.stderr + json.dumps(cluster.calls())


def test_deploy_of_one_pod_tells_what_is_left_of_many(cluster):
    cluster.run("deploy.sh")
    done = cluster.run("deploy.sh", "--shape", "sidecar")
    assert "Left over from multi-pod" in done.stdout and "mcp-fetch" in done.stdout


def test_deploy_with_an_image_of_ones_own(cluster):
    for image, expected in (
        ("registry.example.org:5000/mcp-edge:1", "registry.example.org:5000/mcp-edge:1"),
        ("registry.example.org/mcp-edge", "registry.example.org/mcp-edge:latest"),
        ("mcp-edge@sha256:" + "a" * 64, "mcp-edge@sha256:" + "a" * 64),
        ("mcp-edge:1@sha256:" + "a" * 64, "mcp-edge@sha256:" + "a" * 64),
    ):
        cluster.run("deploy.sh", "--image", image)
        gateway = json.loads((cluster.directory / "objects" / "default.deployment.mcp-gateway").read_text())
        assert gateway["spec"]["template"]["spec"]["containers"][0]["image"] == expected


def test_deploy_says_what_to_do(cluster):
    cluster.say("down")
    done = cluster.run("deploy.sh", ok=(1,))
    assert "the cluster does not answer" in done.stderr and "was refused" in done.stderr
    (cluster.directory / "down").unlink()
    done = cluster.run("deploy.sh", "--overlay", "traefik", "--host", "mcp.example.org", ok=(1,))
    assert "CRDs are not installed" in done.stderr
    cluster.say("crds", "ingressroutes.traefik.io\nserverstransports.traefik.io")
    done = cluster.run("deploy.sh", "--overlay", "traefik", "--host", "mcp.example.org")
    assert "https://mcp.example.org/mcp" in done.stdout
    cluster.say("unready")
    done = cluster.run("deploy.sh", ok=(1,))
    assert "is not ready after 180s" in done.stderr and "describe pod" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--overlay", "nginx"], "there is no overlay nginx"),
        (["--overlay", "traefik"], "needs --host"),
        (["--overlay", "ingress", "--host", "https://a"], "without scheme"),
        (["--overlay", "tls", "--overlay", "traefik", "--host", "a"], "take one of them"),
        (["--overlay", "replicas", "--shape", "sidecar"], "needs --shape multi-pod"),
        (["--overlay"], "--overlay needs a value"),
        (["--shape", "pod"], "multi-pod or sidecar"),
        (["-x"], "there is no option -x"),
    ],
)
def test_wrong_usage_is_refused_before_anything_happens(cluster, arguments, sentence):
    done = cluster.run("deploy.sh", *arguments, ok=(2,))
    assert sentence in done.stderr and "--help" in done.stderr
    assert cluster.calls() == []


@pytest.mark.parametrize("script", ["deploy.sh", "port-forward-mcp.sh", "test.sh", "cleanup.sh"])
def test_help_and_a_missing_kubectl(cluster, script, tmp_path):
    assert script in cluster.run(script, "--help").stdout
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("bash", "dirname", "basename", "mktemp", "rm", "sed", "cat", "curl"):
        (bare / tool).symlink_to(shutil.which(tool))
    done = run("bash", K8S / script, ok=(1,), env={**cluster.env, "PATH": str(bare)})
    assert "kubectl is not on the PATH" in done.stderr


def test_cleanup_takes_what_is_ours_and_nothing_else(cluster):
    cluster.say("crds", "ingressroutes.traefik.io\nserverstransports.traefik.io")
    cluster.run("deploy.sh", "--overlay", "traefik", "--host", "mcp.example.org")
    part = "app.kubernetes.io/part-of"
    foreign = {
        "default.deployment.foreign": {},
        "default.service.helms": {part: "mcp-gateway", "app.kubernetes.io/managed-by": "Helm"},
        "other.deployment.mcp-gateway": {part: "mcp-gateway"},
    }
    for name, labels in foreign.items():
        (cluster.directory / "objects" / name).write_text(json.dumps({"metadata": {"labels": labels}}))
    before = cluster.objects()
    listed = cluster.run("cleanup.sh", "--dry-run").stdout
    assert "ingressroute/mcp-gateway" in listed and "foreign" not in listed
    assert cluster.objects() == before
    cluster.run("cleanup.sh")
    assert cluster.objects() == {*foreign, "default.secret.mcp-gateway-secret"}
    again = cluster.run("cleanup.sh", "--secret").stdout
    assert "There is nothing to remove" in again
    assert cluster.objects() == set(foreign)
    cluster.say("forbidden")
    assert "cannot be listed" in cluster.run("cleanup.sh", ok=(1,)).stderr


def test_port_forward_leaves_a_taken_port_alone(cluster):
    assert "run ./deploy.sh first" in cluster.run("port-forward-mcp.sh", ok=(1,)).stderr
    cluster.run("deploy.sh")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cluster.run("port-forward-mcp.sh", str(port), ok=(1,))
        assert f"port {port} is in use" in done.stderr
        assert not any("port-forward" in call for call in cluster.calls())
        assert taken.fileno() >= 0
    assert "eighty is no port" in cluster.run("port-forward-mcp.sh", "eighty", ok=(2,)).stderr


def test_port_forward_leads_to_the_edge(cluster, tmp_path):
    with edge_with_demo_server(tmp_path) as edge:
        cluster.run("deploy.sh", MCP_GATEWAY_AUTH_TOKEN=edge.token)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [K8S / "port-forward-mcp.sh", str(port)]
        env = {**cluster.env, "FAKE_BACKEND": edge.address}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as forward:
            try:
                answer = eventually(lambda: curl_or_none(f"http://127.0.0.1:{port}/mcp"))
                assert "GET requires an active session" in answer
            finally:
                forward.terminate()
            said = forward.stdout.read()
        assert f"http://localhost:{port}/mcp" in said and edge.token not in said


def curl_or_none(url):
    done = run("curl", "-sS", "--max-time", "5", url, ok=None)
    return done.stdout if done.returncode == 0 else None


def test_test_script_tells_good_from_bad(cluster, tmp_path):
    with edge_with_demo_server(tmp_path) as edge:
        cluster.run("deploy.sh", MCP_GATEWAY_AUTH_TOKEN=edge.token)
        done = cluster.run("test.sh", FAKE_BACKEND=edge.address)
        assert done.stdout.count("\nok    ") == 5 and "No problem found." in done.stdout
        assert edge.token not in done.stdout + done.stderr + json.dumps(cluster.calls())
        forward = int((cluster.directory / "forward.pid").read_text())
        eventually(lambda: not pathlib.Path(f"/proc/{forward}").exists())

        secret = cluster.directory / "objects" / "default.secret.mcp-gateway-secret"
        secret.write_text(json.dumps({"token": "another"}))
        done = cluster.run("test.sh", ok=(1,), FAKE_BACKEND=edge.address)
        assert "FAIL  the tools of its servers: wanted 200" in done.stdout and "got 401" in done.stdout
        assert "docs/troubleshooting.md" in done.stderr

    cluster.say("unready")
    done = cluster.run("test.sh", ok=(1,), FAKE_BACKEND="127.0.0.1:1")
    assert "the port-forward did not start" in done.stderr and "pod is not running" in done.stderr


def test_test_script_takes_an_edge_with_oauth(cluster, tmp_path):
    """There GET /mcp is 401, which leads clients to the authorization server."""
    oauth = 'oauth: {resource: "https://mcp.example.org/mcp", issuer: "https://127.0.0.1:1"}'
    (tmp_path / "oauth.yaml").write_text(f"auth: {{tokens: [{{env: MCP_GATEWAY_AUTH_TOKEN, principal: default}}], {oauth}}}\n")
    with edge_with_demo_server(tmp_path, f"--config={tmp_path / 'oauth.yaml'}") as edge:
        cluster.run("deploy.sh", MCP_GATEWAY_AUTH_TOKEN=edge.token)
        assert run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{edge.address}/mcp").stdout == "401"
        done = cluster.run("test.sh", FAKE_BACKEND=edge.address)
        assert done.stdout.count("\nok    ") == 5 and "No problem found." in done.stdout


def test_scripts_speak_https_to_an_edge_that_does(cluster, tmp_path):
    cluster.say("crds", "certificates.cert-manager.io")
    key, cert = tmp_path / "tls.key", tmp_path / "tls.crt"
    options = ["-x509", "-nodes", "-days", "2", "-subj", "/CN=mcp.example.org", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    run("openssl", "req", *options, "-keyout", key, "-out", cert)
    (tmp_path / "tls.yaml").write_text(f"tls: {{cert: {cert}, key: {key}}}\n")
    with edge_with_demo_server(tmp_path, f"--config={tmp_path / 'tls.yaml'}") as edge:
        done = cluster.run("deploy.sh", "--overlay", "tls", "--host", "mcp.example.org", MCP_GATEWAY_AUTH_TOKEN=edge.token)
        # There is no proxy in front that would serve 443.
        assert "https://mcp.example.org:8811/mcp" in done.stdout
        for arguments in ([], ["--https"]):
            assert "No problem found." in cluster.run("test.sh", *arguments, FAKE_BACKEND=edge.address).stdout
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with subprocess.Popen([K8S / "port-forward-mcp.sh", str(port)], env={**cluster.env, "FAKE_BACKEND": edge.address}, stdout=subprocess.PIPE, text=True) as forward:
            try:
                command = ["curl", "-sS", "--insecure", "--max-time", "5", f"https://localhost:{port}/mcp"]
                assert "GET requires an active session" in eventually(lambda: run(*command, ok=None).stdout)
            finally:
                forward.terminate()
            said = forward.stdout.read()
        assert f"curl --insecure https://localhost:{port}/mcp" in said and "http://" not in said


def test_cleanup_takes_alerts_too(cluster):
    cluster.say("crds", "servicemonitors.monitoring.coreos.com\nprometheusrules.monitoring.coreos.com")
    cluster.run("deploy.sh", "--overlay", "servicemonitor", "--overlay", "prometheusrule")
    assert "default.prometheusrule.mcp-gateway" in cluster.objects()
    cluster.run("cleanup.sh")
    assert cluster.objects() == {"default.secret.mcp-gateway-secret"}
