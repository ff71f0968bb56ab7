"""Runs the release binaries as processes, and waits for conditions."""

import contextlib
import os
import pathlib
import re
import secrets
import subprocess
import time
from dataclasses import dataclass

from tools import ROOT

DIST = pathlib.Path(os.environ.get("MCP_DIST") or ROOT / "target" / "dist")
# On an idle machine nothing here takes a second; this is for a busy one.
GUARD_SECONDS = 60


def eventually(condition, guard=GUARD_SECONDS):
    """Waits until `condition` returns something true, and returns that; fails if it never does."""
    end = time.monotonic() + guard
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"did not come true within {guard} s: {condition}")
        time.sleep(0.05)


@contextlib.contextmanager
def process(command, log, **kwargs):
    """A process whose output goes to the file `log`. At the end it gets SIGTERM, and SIGKILL if it takes too long."""
    with open(log, "wb") as sink:
        child = subprocess.Popen([str(word) for word in command], stdout=sink, stderr=sink, **kwargs)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(GUARD_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def found(pattern, log):
    """A condition for `eventually`: `pattern` is found in the log."""
    return lambda: re.search(pattern, pathlib.Path(log).read_text(errors="replace"))


@dataclass
class Edge:
    address: str
    admin: str
    token: str
    process: subprocess.Popen


@contextlib.contextmanager
def edge(directory, *arguments, token=None):
    """mcp-edge on free ports of loopback, ready for traffic."""
    token = token or secrets.token_hex(16)
    log = directory / "edge.log"
    command = [DIST / "mcp-edge", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments]
    environment = {**os.environ, "MCP_GATEWAY_AUTH_TOKEN": token, "NO_COLOR": "1"}
    with process(command, log, env=environment) as child:
        words = eventually(found(r"listening .*addresses=\[([^\]]+)\].* admin=\[([^\]]+)\]", log))
        address, admin = (re.sub(r"\x1b\[[0-9;]*m", "", word) for word in words.groups())
        check = [DIST / "mcp-edge", "--check-health", f"http://{admin}/ready"]
        eventually(lambda: subprocess.run(check, capture_output=True, check=False).returncode == 0)
        yield Edge(address, admin, token, child)


@contextlib.contextmanager
def bridge(directory, *command, name="bridge"):
    """docker-mcp-bridge in front of a command, at the unix socket that is returned."""
    socket = directory / f"{name}.sock"
    with process([DIST / "docker-mcp-bridge", "--listen", f"unix:{socket}", "--", *command], directory / f"{name}.log"):
        eventually(socket.exists)
        yield f"unix:{socket}"


@contextlib.contextmanager
def edge_with_demo_server(directory, *arguments):
    with bridge(directory, DIST / "demo-server") as address:
        with edge(directory, f"--server=demo={address}", *arguments) as running:
            yield running
