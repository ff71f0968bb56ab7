"""Podman on restricted machines: limits that cannot be raised, cgroups v1, no systemd."""

import json
import os
import pathlib
import resource
import subprocess
import uuid

from tools import ROOT, SERVERS, run

BASE = "localhost/mcp-test-base"
BRIDGE = "localhost/docker-mcp-bridge:test"
EDGE = "localhost/mcp-edge:test"
LOCKED = ["--read-only", "--user", "1000:1000", "--cap-drop", "all", "--security-opt", "no-new-privileges"]


def limits():
    """Flags with the limits of this machine: podman asks for more than the hard limits by default, and fails. It lowers its own
    limit of processes to the highest process id, 32,768 by default, before it starts anything."""
    flags = []
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            hard = min(hard, 32_768)
            flags += ["--ulimit", f"{name}={min(hard, 16_384)}:{hard}"]
    return flags


def podman(*arguments, **kwargs):
    return run("podman", "--runtime", "runc", *arguments, **{"timeout": 1200, **kwargs})


def make_base():
    """Imports a Debian with a C compiler as an image, because the tests cannot reach image registries."""
    if podman("image", "exists", BASE, ok=(0, 1)).returncode == 0:
        return
    root = ROOT / "target" / "k8s" / "base"
    run("rm", "-rf", root)
    root.parent.mkdir(parents=True, exist_ok=True)
    packages = "--include=gcc,libc6-dev,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, "bookworm", root, timeout=900)
    archive = root.with_suffix(".tar")
    skip = [f"--exclude=./{name}" for name in ("dev", "proc", "sys", "var/cache", "var/lib/apt")]
    run("tar", "-C", root, *skip, "-cf", archive, ".")
    path = "PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    podman("import", "--change", f"ENV {path}", "--change", "ENV CARGO_HOME=/usr/local/cargo", archive, BASE)
    run("rm", "-rf", root, archive)


def build(dockerfile, tag, **arguments):
    """Builds a Dockerfile as usual, with this machine's compiler mounted into the local base image."""
    sysroot = pathlib.Path(run("rustc", "--print", "sysroot", cwd=ROOT).stdout.strip()).resolve()
    registry = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "registry"
    registry.mkdir(parents=True, exist_ok=True)
    volumes = ["-v", f"{sysroot}:/usr/local/rust:ro", "-v", f"{registry}:/usr/local/cargo/registry"]
    given = {"RUST_IMAGE": BASE, **arguments}
    flags = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    # Only the format of Docker keeps HEALTHCHECK.
    podman("build", "--format", "docker", "--network", "host", *limits(), *volumes, *flags, "-f", dockerfile, "-t", tag, ".", cwd=ROOT)


def inspect(image):
    return json.loads(podman("image", "inspect", image).stdout)[0]


class Container:
    """A container in the background; it is removed at the end."""

    def __init__(self, *arguments):
        self.name = f"mcp-test-{uuid.uuid4().hex[:8]}"
        podman("run", "--detach", "--name", self.name, "--no-healthcheck", *limits(), *arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["podman", "rm", "--force", "--time", "0", self.name], capture_output=True, check=False)

    def execute(self, *command, ok=(0,)):
        return podman("exec", self.name, *command, ok=ok)

    def logs(self):
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def port(self, port):
        return podman("port", self.name, str(port)).stdout.strip().split(":")[-1]

    def state(self):
        return json.loads(podman("container", "inspect", self.name).stdout)[0]["State"]


def server_mounts():
    """Mounts for an empty image: this machine's Python with the real servers, at the same paths, read-only."""
    base = run(SERVERS / "bin" / "python", "-c", "import sys; print(sys.base_prefix)").stdout.strip()
    paths = [f"{SERVERS}:{SERVERS}:ro"]
    if base != "/usr":
        paths.append(f"{base}:{base}:ro")
    # An empty image has no links from /lib to /usr/lib.
    return [*paths, "/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro"]
