"""The images, built from the Dockerfiles and run as in a cluster."""

import json
import os
import re
import socket
import time

import pytest

from containers import BRIDGE, EDGE, LOCKED, Container, build, inspect, limits, make_base, podman, server_mounts
from processes import edge, eventually
from tools import K8S, ROOT, SERVERS, TESTS, TOOLS, run

TOKEN = "a-token-for-the-tests"


@pytest.fixture(scope="module")
def bridge_image():
    make_base()
    build("Dockerfile.bridge", BRIDGE)
    return BRIDGE


@pytest.fixture(scope="module")
def edge_image():
    """Built faster and larger than the shipped image, which is the only difference."""
    make_base()
    build("Dockerfile.edge", EDGE, LTO="off", CODEGEN_UNITS="16", OPT_LEVEL="s")
    return EDGE


def files(image):
    """The files of the image, without those that podman adds to every container."""
    name = podman("create", image).stdout.strip()
    try:
        listed = run("sh", "-c", f"podman export {name} | tar -t").stdout.split()
    finally:
        podman("rm", name)
    added = ("dev", "etc", "proc", "run", "sys")
    return {path for path in listed if not path.endswith("/") and path.split("/")[0] not in added}


def test_the_bridge_image_is_small_and_says_what_it_is(bridge_image):
    found = inspect(bridge_image)
    print(f"bridge image: {found['Size']} bytes")
    assert found["Size"] < 1_300_000
    assert files(bridge_image) == {"docker-mcp-bridge", "misc/docker-mcp-bridge"}
    config = found["Config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["/docker-mcp-bridge"]
    assert found["Healthcheck"]["Test"] == ["CMD", "/docker-mcp-bridge", "--check"]
    labels = config["Labels"]
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_edge_image_carries_both(edge_image):
    found = inspect(edge_image)
    print(f"edge image: {found['Size']} bytes, without link-time optimisation")
    assert found["Size"] < 14_000_000
    assert files(edge_image) == {"mcp-edge", "misc/docker-mcp-bridge"}
    assert found["Config"]["User"] == "1000:1000"
    assert found["Config"]["Entrypoint"] == ["/mcp-edge"]
    assert found["Healthcheck"]["Test"] == ["CMD", "/mcp-edge", "--check-health"]
    assert set(found["Config"]["ExposedPorts"]) == {"8811/tcp", "9090/tcp"}


def test_install_fills_an_empty_volume(edge_image, bridge_image, tmp_path):
    for image, path in ((edge_image, "/misc/docker-mcp-bridge"), (bridge_image, "/misc/docker-mcp-bridge")):
        volume = tmp_path / re.sub(r"[^a-z]", "-", image)
        volume.mkdir()
        volume.chmod(0o777)
        mount = ["--volume", f"{volume}:/docker-mcp", "--entrypoint", path]
        podman("run", "--rm", "--no-healthcheck", *limits(), *LOCKED, "--network", "none", *mount, image, "--install", "/docker-mcp/misc")
        installed = volume / "misc" / "docker-mcp-bridge"
        assert installed.stat().st_mode & 0o777 == 0o755
        assert run(installed, "--version").stdout.startswith("docker-mcp-bridge ")


def call(url, *arguments):
    environment = {**os.environ, "MCP_GATEWAY_AUTH_TOKEN": TOKEN}
    return json.loads(run(SERVERS / "bin" / "python", TESTS / "client.py", url, *arguments, env=environment).stdout)


def test_the_bridge_serves_from_scratch(bridge_image, tmp_path):
    """From an empty image, read-only, as user 1000, without capabilities and network, in front of a real server."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    sockets.chmod(0o777)
    volumes = [word for mount in server_mounts() for word in ("--volume", mount)]
    listen = ["--listen", "unix:/sockets/fetch.sock", "--", SERVERS / "bin" / "mcp-server-fetch"]
    with Container(*LOCKED, "--network", "none", *volumes, "--volume", f"{sockets}:/sockets", bridge_image, *listen) as bridge:
        eventually((sockets / "fetch.sock").exists)
        bridge.execute("/docker-mcp-bridge", "--check", "unix:/sockets/fetch.sock")
        with edge(tmp_path, f"--server=fetch=unix:{sockets}/fetch.sock", token=TOKEN) as running:
            report = call(f"http://{running.address}/mcp", 'fetch={"url":"http://127.0.0.1:1/"}')
        assert report["tools"] == ["fetch"]
        assert "--allow-private-ips" in report["calls"]["fetch"]["text"]
        check_stop(bridge, 20 + 7)


def test_the_edge_serves_from_scratch(edge_image, tmp_path):
    flags = ["--publish", "127.0.0.1::8811", "--env", f"MCP_GATEWAY_AUTH_TOKEN={TOKEN}"]
    # The name does not resolve: a static binary must be able to look it up in an image without resolver configuration.
    with Container(*LOCKED, *flags, edge_image, "--servers=nobody") as gateway:
        health = f"http://127.0.0.1:{gateway.port(8811)}/health"
        eventually(lambda: run("curl", "-fsS", health, ok=None).returncode == 0)
        gateway.execute("/mcp-edge", "--check-health")
        eventually(lambda: "failed to lookup address" in gateway.logs())
        check_stop(gateway, 25)


def check_stop(container, seconds):
    began = time.monotonic()
    podman("stop", "--time", str(seconds + 20), container.name)
    took = time.monotonic() - began
    assert took < seconds + 5, f"took {took} s"
    assert container.state()["ExitCode"] == 0, container.logs()


def test_compose_serves_two_real_servers(edge_image, bridge_image, tmp_path):
    """The compose file as it is. A second file mounts the servers into an empty image, the substitute for theirs."""
    volumes = server_mounts()
    path = f"{SERVERS}/bin:/usr/bin:/bin"
    service = {"environment": {"PATH": path}, "volumes": volumes}
    ulimits = {name: {"soft": int(soft), "hard": int(hard)} for name, soft, hard in map(split_limit, limits()[1::2])}
    names = ("copy-bridge", "gateway", "mcp-duckduckgo", "mcp-fetch")
    added = {name: {"ulimits": ulimits, **(service if name.startswith("mcp-") else {})} for name in names}
    (tmp_path / "added.yaml").write_text(json.dumps({"services": added}))
    images = {"MCP_EDGE_IMAGE": edge_image, "DUCKDUCKGO_IMAGE": bridge_image, "FETCH_IMAGE": bridge_image}
    environment = {**os.environ, **images, "MCP_GATEWAY_AUTH_TOKEN": TOKEN, "MCP_PORT": str(free_port())}
    project = f"mcptest{os.getpid()}"
    compose = [TOOLS / "podman-compose", "--podman-args", "--runtime runc", "-p", project, "-f", K8S / "compose" / "compose.yaml", "-f", tmp_path / "added.yaml"]
    try:
        # In two steps: podman before 4.6 waits forever for a container that has already ended successfully.
        run(*compose, "up", "--detach", "copy-bridge", env=environment)
        eventually(lambda: exit_code(f"{project}_copy-bridge_1") == 0)
        run(*compose, "up", "--detach", "--no-deps", "mcp-duckduckgo", "mcp-fetch", "gateway", env=environment)
        url = f"http://127.0.0.1:{environment['MCP_PORT']}"
        try:
            eventually(lambda: run("curl", "-fsS", f"{url}/ready", ok=None).returncode == 0, 120)
            report = call(f"{url}/mcp", 'fetch={"url":"http://127.0.0.1:1/"}')
        except AssertionError as error:
            raise AssertionError(run(*compose, "logs", env=environment, ok=None).stdout) from error
        assert {"fetch", "search", "fetch_content"} <= set(report["tools"])
        assert "--allow-private-ips" in report["calls"]["fetch"]["text"]
        for name in ("gateway", "mcp-fetch", "mcp-duckduckgo"):
            state = json.loads(podman("container", "inspect", f"{project}_{name}_1").stdout)[0]
            assert state["HostConfig"]["ReadonlyRootfs"] is True
            assert state["EffectiveCaps"] in (None, [])
        # As process 1 each must end on SIGTERM within its grace period; after SIGKILL the code would be 137.
        run(*compose, "stop", env=environment, timeout=200)
        for name in ("gateway", "mcp-fetch", "mcp-duckduckgo"):
            assert exit_code(f"{project}_{name}_1") == 0, name
    finally:
        run(*compose, "down", "--volumes", env=environment, ok=None, timeout=300)


def exit_code(name):
    """The exit code of a container that has ended, else None."""
    state = json.loads(podman("container", "inspect", name).stdout)[0]["State"]
    return state["ExitCode"] if state["Status"] == "exited" else None


def split_limit(text):
    name, _, values = text.partition("=")
    return name, *values.split(":")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
