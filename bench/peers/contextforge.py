"""Starts ContextForge in front of one stdio server: PORT TRANSLATION_PORT TOLD COMMAND.

Its own translation puts the server behind HTTP; the gateway, two workers of uvicorn with uvloop, has it registered
as a peer and published in a virtual server. Where that is, and how its tools are named, goes into TOLD.
State lies in the working directory. See README.md for why these settings.
"""

import ctypes
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

SETTINGS = {
    "MCPGATEWAY_ADMIN_API_ENABLED": "true",
    "PLATFORM_ADMIN_EMAIL": "admin@example.com",
    "PLATFORM_ADMIN_PASSWORD": "A-password-4-the-bench!",
    "PASSWORD_CHANGE_ENFORCEMENT_ENABLED": "false",
    "JWT_SECRET_KEY": secrets.token_hex(32),
    "AUTH_ENCRYPTION_SECRET": secrets.token_hex(32),
    "DATABASE_URL": "sqlite:///./mcp.db",
    "CACHE_TYPE": "memory",
    # What its tuning guide turns off for throughput.
    "LOG_LEVEL": "ERROR",
    "STRUCTURED_LOGGING_ENABLED": "false",
    "OBSERVABILITY_ENABLED": "false",
    "PLUGINS_ENABLED": "false",
    "RATE_LIMITING_ENABLED": "false",
    "TOOL_RATE_LIMIT": "100000000",
    "METRICS_AGGREGATION_ENABLED": "false",
    "MCPGATEWAY_UI_ENABLED": "false",
    # The server is on loopback.
    "SSRF_ALLOW_LOCALHOST": "true",
    "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
}


def main():
    port, translation_port, told, command = sys.argv[1:]
    environment = {**os.environ, **SETTINGS}
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "mcpgateway.translate", "--stdio", command, "--expose-streamable-http"]
            + ["--host", "127.0.0.1", "--port", translation_port, "--logLevel", "error"],
            env=environment,
            preexec_fn=end_with_parent,
        ),
        subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "mcpgateway.main:app", "--host", "127.0.0.1", "--port", port]
            + ["--workers", "2", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"],
            env=environment,
            preexec_fn=end_with_parent,
        ),
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        base = f"http://127.0.0.1:{port}"
        await_it(f"{base}/health")
        url = f"http://127.0.0.1:{translation_port}/mcp"
        await_it(url)
        admin = token(environment)
        gateway = {"name": "bench", "url": url, "transport": "STREAMABLEHTTP", "visibility": "public"}
        gateway = ask(f"{base}/gateways", admin, gateway)
        tools = [tool for tool in ask(f"{base}/tools", admin) if tool.get("gatewayId") == gateway["id"]]
        server = {"name": "bench", "description": "bench", "associated_tools": [tool["id"] for tool in tools]}
        server = ask(f"{base}/servers", admin, {"server": server, "visibility": "public"})
        names = [tool["name"] for tool in tools]
        prefix = next(name[: -len("r200")] for name in names if name.endswith("r200"))
        pathlib.Path(told).write_text(json.dumps({"path": f"/servers/{server['id']}/mcp", "prefix": prefix, "token": admin}))
        for program in programs:
            program.wait()
    finally:
        for program in programs:
            program.terminate()


def end_with_parent():
    """The bench kills this starter outright; what it started must not outlive it (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def await_it(url):
    """Waits until something answers there, whatever it says."""
    for _ in range(720):
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.25)
    sys.exit(f"nothing listens at {url}")


def token(environment):
    """Of the administrator, for registering and for calls."""
    command = [sys.executable, "-m", "mcpgateway.utils.create_jwt_token", "--username", "admin@example.com"]
    command += ["--exp", "10080", "--secret", environment["JWT_SECRET_KEY"], "--admin"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return output.split()[-1]


def ask(url, admin, body=None):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {admin}"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read().decode()[:500]}")


if __name__ == "__main__":
    main()
