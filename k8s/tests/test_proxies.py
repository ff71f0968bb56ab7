"""The edge behind real reverse proxies with the settings of the overlays: events arrive one by one, long calls are not cut, and the
client's address and scheme are forwarded. Without the settings the same tests fail."""

import contextlib
import http.server
import json
import socket
import subprocess
import threading
import time

import pytest
import yaml

from processes import edge_with_demo_server, eventually, process
from rendered import find, load
from tools import TOOLS, run

HOST = "mcp.example.org"
# The duration of a call, and a shorter timeout that must cut it.
LONG_MS, CUT = 4_000, "1s"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls")
    key, cert = path / "tls.key", path / "tls.crt"
    options = ["-x509", "-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    run("openssl", "req", *options, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", key, "-out", cert)
    (path / "both.pem").write_text(cert.read_text() + key.read_text())
    return path


@contextlib.contextmanager
def traefik(directory, certificate, backend, header_timeout=None):
    """Traefik with the overlay's route and transport, given to its file provider; its entry point has the defaults."""
    documents = load("multi-pod with traefik")
    route = find(documents, "IngressRoute", "mcp-gateway")["spec"]["routes"][0]
    transport = find(documents, "ServersTransport", "mcp-gateway")["spec"]
    if header_timeout:
        transport["forwardingTimeouts"]["responseHeaderTimeout"] = header_timeout
    service = route["services"][0]
    balancer = {
        "servers": [{"url": f"http://{backend}"}],
        "passHostHeader": service["passHostHeader"],
        "responseForwarding": service["responseForwarding"],
        "serversTransport": service["serversTransport"],
    }
    router = {"rule": route["match"], "service": "mcp", "entryPoints": ["websecure"], "tls": {}}
    dynamic = {
        "http": {"routers": {"mcp": router}, "services": {"mcp": {"loadBalancer": balancer}}, "serversTransports": {"mcp-gateway": transport}},
        "tls": {"stores": {"default": {"defaultCertificate": {"certFile": str(certificate / "tls.crt"), "keyFile": str(certificate / "tls.key")}}}},
    }
    (directory / "dynamic.yaml").write_text(yaml.safe_dump(dynamic))
    port = free_port()
    command = [TOOLS / "traefik", f"--entryPoints.websecure.address=127.0.0.1:{port}"]
    command += [f"--providers.file.filename={directory / 'dynamic.yaml'}", "--global.sendAnonymousUsage=false", "--global.checkNewVersion=false"]
    with process(command, directory / "traefik.log"):
        eventually(lambda: answers(port, certificate))
        yield port


@contextlib.contextmanager
def haproxy(directory, certificate, backend, server_timeout=None):
    """HAProxy as its ingress controllers configure it from the overlay's annotations."""
    annotations = find(load("multi-pod with ingress"), "Ingress", "mcp-gateway")["metadata"]["annotations"]
    assert annotations["haproxy.org/forwarded-for"] == "true"
    timeout = server_timeout or annotations["haproxy.org/timeout-server"]
    assert annotations["haproxy-ingress.github.io/timeout-server"] == annotations["haproxy.org/timeout-server"]
    port = free_port()
    config = f"""
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server {timeout}
frontend tls
    bind 127.0.0.1:{port} ssl crt {certificate / "both.pem"} alpn h2,http/1.1
    option forwardfor
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    default_backend edge
backend edge
    server edge {backend}
"""
    (directory / "haproxy.cfg").write_text(config)
    with process(["haproxy", "-db", "-f", directory / "haproxy.cfg"], directory / "haproxy.log"):
        eventually(lambda: answers(port, certificate))
        yield port


PROXIES = {"traefik": (traefik, "header_timeout"), "haproxy": (haproxy, "server_timeout")}


@pytest.fixture(params=PROXIES)
def proxy(request):
    return PROXIES[request.param]


@contextlib.contextmanager
def edge_behind(directory):
    """In a pod the edge listens on all addresses and accepts any Host; on loopback, as here, it needs `hosts`."""
    config = directory / "edge.yaml"
    config.write_text(f"hosts: [{HOST}]\n")
    with edge_with_demo_server(directory, "--config", config) as edge:
        yield edge


def curl(port, certificate, *arguments):
    return ["curl", "-sS", "--http1.1", "--max-time", "60", "--cacert", certificate / "tls.crt", "--resolve", f"{HOST}:{port}:127.0.0.1", *arguments]


def answers(port, certificate):
    done = run(*curl(port, certificate, "-o", "/dev/null", "-w", "%{http_code}", f"https://{HOST}:{port}/health"), ok=None)
    return done.returncode == 0 and done.stdout != "404"


def call(port, certificate, token, progress, origin=None):
    """The curl command of a call that takes LONG_MS on the demo server, which with progress reports ten times."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    if progress:
        meta["progressToken"] = "p"
    params = {"name": "sleep", "arguments": {"ms": LONG_MS}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "sleep",
        "Origin": origin or f"https://{HOST}:{port}",
    }
    flags = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    return curl(port, certificate, "-N", *flags, "-d", body, "-w", "\n%{http_code}\n", f"https://{HOST}:{port}/mcp")


def test_events_arrive_one_by_one(proxy, certificate, tmp_path):
    start, _ = proxy
    with edge_behind(tmp_path) as edge, start(tmp_path, certificate, edge.address) as port:
        command = call(port, certificate, edge.token, progress=True)
        seen = []
        with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True, bufsize=1) as client:
            for line in client.stdout:
                if line.startswith("data:") and len(line) > len("data:\n"):
                    seen.append((time.monotonic(), json.loads(line[5:])))
        assert seen, (tmp_path / "edge.log").read_text()
        kinds = ["result" if "result" in message else message["method"] for _, message in seen]
        assert kinds[-1] == "result" and kinds.count("notifications/progress") >= 5, kinds
        # A proxy that buffers delivers them all at once, at the end.
        assert seen[-1][0] - seen[0][0] > LONG_MS / 1000 / 2


def test_long_calls_are_not_cut(proxy, certificate, tmp_path):
    start, setting = proxy
    with edge_behind(tmp_path) as edge:
        with start(tmp_path, certificate, edge.address) as port:
            done = run(*call(port, certificate, edge.token, progress=False), ok=None)
            assert done.returncode == 0 and done.stdout.endswith("\n200\n") and '"result"' in done.stdout, done
        # The same call with the timeout that the setting disables is cut.
        with start(tmp_path, certificate, edge.address, **{setting: CUT}) as port:
            done = run(*call(port, certificate, edge.token, progress=False), ok=None)
            assert '"result"' not in done.stdout, done


def test_origins_are_judged_by_the_name_that_clients_use(proxy, certificate, tmp_path):
    """The proxy ends TLS, so the edge sees plain HTTP; Host and Origin must still agree."""
    start, _ = proxy
    with edge_behind(tmp_path) as edge, start(tmp_path, certificate, edge.address) as port:
        good = run(*call(port, certificate, edge.token, progress=False))
        assert good.stdout.endswith("\n200\n"), good.stdout
        foreign = run(*call(port, certificate, edge.token, progress=False, origin="https://evil.example"))
        assert foreign.stdout.endswith("\n403\n"), foreign.stdout


def test_client_address_and_tls_are_passed_on(proxy, certificate, tmp_path):
    """Headers that a backend gets. The edge trusts none of them: it identifies clients by their tokens."""
    start, _ = proxy
    heard = []

    class Backend(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(dict(self.headers))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        with start(tmp_path, certificate, f"127.0.0.1:{backend.server_port}") as port:
            heard.clear()
            run(*curl(port, certificate, "--fail", f"https://{HOST}:{port}/ready"))
        backend.shutdown()
    headers = {name.lower(): value for name, value in heard[0].items()}
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "https"
    assert headers["host"] == f"{HOST}:{port}"
