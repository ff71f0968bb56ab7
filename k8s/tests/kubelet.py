"""A cluster of network namespaces on this machine, which runs Pods, Services and Secrets of the manifests as a node would.

Each pod has a network namespace and an address; names of headless Services resolve to the pods that their selectors match.
container.py starts containers from the fields of the manifest. Needs root.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from processes import DIST, GUARD_SECONDS, eventually, found
from tools import SERVERS, TESTS, run

NODE = "10.244.77.1"
DOMAIN = "mcp.svc.cluster.local"
HOST_PATHS = ["/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc/ssl", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/passwd"]


def image(name):
    """The substitute for an image: (files, paths bound from this machine, entry point, environment)."""
    if name.startswith("mcp-edge:"):
        # Unlike the image's binary, the release binary here is not static: it needs this machine's libraries.
        files = [(str(DIST / "mcp-edge"), "/mcp-edge"), (str(DIST / "docker-mcp-bridge"), "/misc/docker-mcp-bridge")]
        return files, ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"], ["/mcp-edge"], {}
    if name.split("@")[0] in ("mcp/duckduckgo", "mcp/fetch"):
        python = subprocess.run([SERVERS / "bin" / "python", "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True)
        path = f"{SERVERS}/bin:/usr/local/bin:/usr/bin:/bin"
        binds = [*HOST_PATHS, str(SERVERS)]
        if not python.stdout.startswith("/usr\n"):
            binds.append(python.stdout.strip())
        return [], binds, [], {"PATH": path}
    raise AssertionError(f"no stand-in for the image {name}")


@dataclass
class Container:
    name: str
    spec: dict
    log: pathlib.Path
    process: subprocess.Popen
    ended_after: float | None = None

    def pid(self):
        """The id, on this machine, of the container's process 1."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(eventually(lambda: children.read_text().split())[0])


@dataclass
class Pod:
    name: str
    template: dict
    address: str
    namespace: str
    directory: pathlib.Path
    containers: list[Container] = field(default_factory=list)
    is_leaving: bool = False

    def container(self, name):
        return next(one for one in self.containers if one.name == name)


class Cluster:
    # Guards the zone file: pods of one cluster may end at the same time.
    publishing = threading.Lock()

    def __init__(self, directory, documents, secret_values):
        self.directory = directory
        self.documents = documents
        self.secrets = secret_values
        self.tag = secrets.token_hex(2)
        self.node = f"mcp{self.tag}"
        self.pods = []
        self.background = []
        self.zone = directory / "zone.json"

    def __enter__(self):
        try:
            self.start_node()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for pod in self.pods:
            for container in pod.containers:
                if container.process.poll() is None:
                    # The kernel clears a parent-death signal when a process changes its user, so kill the container's process first.
                    with contextlib.suppress(AssertionError, OSError):
                        os.kill(container.pid(), signal.SIGKILL)
                    container.process.kill()
                container.process.wait()
        for child in self.background:
            child.kill()
            child.wait()
        for namespace in [*(pod.namespace for pod in self.pods), self.node]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    # The network.

    def start_node(self):
        run("ip", "netns", "add", self.node)
        self.on_node("ip", "link", "set", "lo", "up")
        self.on_node("ip", "link", "add", "br0", "type", "bridge")
        self.on_node("ip", "addr", "add", f"{NODE}/24", "dev", "br0")
        self.on_node("ip", "link", "set", "br0", "up")
        self.publish()
        self.in_background("names", sys.executable, TESTS / "names.py", NODE, self.zone)
        eventually(found("ready", self.directory / "names.log"))

    def node_command(self, *command):
        return ["nsenter", f"--net=/run/netns/{self.node}", *[str(word) for word in command]]

    def on_node(self, *command, **kwargs):
        return run(*self.node_command(*command), **kwargs)

    def in_background(self, name, *command):
        with open(self.directory / f"{name}.log", "wb") as log:
            self.background.append(subprocess.Popen(self.node_command(*command), stdout=log, stderr=log))

    def connect(self, pod):
        run("ip", "netns", "add", pod.namespace)
        inside = ["nsenter", f"--net=/run/netns/{pod.namespace}"]
        port = f"v{len(self.pods)}"
        self.on_node("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", f"/run/netns/{pod.namespace}")
        self.on_node("ip", "link", "set", port, "master", "br0", "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "addr", "add", f"{pod.address}/24", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")

    def publish(self):
        """Makes names of headless Services resolve to the pods that they select."""
        zone = {}
        for service in (one for one in self.documents if one["kind"] == "Service"):
            selector = service["spec"]["selector"].items()
            here = [pod for pod in self.pods if not pod.is_leaving]
            chosen = [pod.address for pod in here if selector <= pod.template["metadata"]["labels"].items()]
            if chosen and service["spec"].get("clusterIP") == "None":
                zone[f"{service['metadata']['name']}.{DOMAIN}"] = chosen
        with self.publishing:
            new = self.zone.with_suffix(".new")
            new.write_text(json.dumps(zone))
            new.rename(self.zone)

    # Pods.

    def start(self, deployment):
        """Starts a pod of this Deployment, and returns after its init containers have succeeded."""
        name = f"{deployment['metadata']['name']}-{len(self.pods)}"
        number = len(self.pods) + 2
        directory = self.directory / name
        directory.mkdir()
        template = deployment["spec"]["template"]
        pod = Pod(name, template, f"10.244.77.{number}", f"{self.node}p{number}", directory)
        self.pods.append(pod)
        self.connect(pod)
        self.make_volumes(pod)
        for spec in template["spec"].get("initContainers", []):
            container = self.run_container(pod, spec)
            assert container.process.wait(GUARD_SECONDS) == 0, container.log.read_text()
        for spec in template["spec"]["containers"]:
            pod.containers.append(self.run_container(pod, spec))
        return pod

    def make_volumes(self, pod):
        for volume in pod.template["spec"].get("volumes", []):
            directory = pod.directory / "volumes" / volume["name"]
            directory.mkdir(parents=True)
            if "emptyDir" in volume:
                os.chown(directory, 0, pod.template["spec"]["securityContext"]["fsGroup"])
                directory.chmod(0o2777)
            elif "secret" in volume:
                self.project(directory, self.secrets[volume["secret"]["secretName"]], volume["secret"].get("defaultMode", 0o644), pod)
            else:
                name = volume["configMap"]["name"]
                data = next(one["data"] for one in self.documents if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name)
                self.project(directory, data, 0o644, pod)

    def project(self, directory, data, mode, pod):
        """Writes the files of a Secret or ConfigMap, and switches to them atomically by a symlink, as the kubelet does."""
        version = directory / f"..{secrets.token_hex(4)}"
        version.mkdir()
        for name, value in data.items():
            (version / name).write_text(value)
            os.chown(version / name, 0, pod.template["spec"]["securityContext"]["fsGroup"])
            (version / name).chmod(mode)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        moving = directory / "..data_tmp"
        moving.symlink_to(version.name)
        moving.rename(directory / "..data")

    def environment(self, pod, spec):
        fields = {"status.podIP": pod.address}
        found = {}
        for variable in spec.get("env", []):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            elif "fieldRef" in variable["valueFrom"]:
                found[variable["name"]] = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
        return found

    def run_container(self, pod, spec):
        files, binds, entrypoint, env = image(spec["image"])
        context = spec["securityContext"]
        root = pod.directory / f"root-{spec['name']}"
        root.mkdir()
        description = {
            "root": str(root),
            "files": files,
            "binds": binds,
            "etc": {
                "hosts": "\n".join(["127.0.0.1 localhost", "::1 localhost", f"{pod.address} {pod.name}", ""]),
                "resolv.conf": f"nameserver {NODE}\nsearch {DOMAIN} svc.cluster.local cluster.local\noptions ndots:5\n",
            },
            "mounts": [
                [str(pod.directory / "volumes" / one["name"]), one["mountPath"], one.get("readOnly", False)]
                for one in spec.get("volumeMounts", [])
            ],
            "readonly": context["readOnlyRootFilesystem"],
            "no_new_privs": not context["allowPrivilegeEscalation"],
            "drop_all": "ALL" in context["capabilities"]["drop"],
            "uid": context["runAsUser"],
            "gid": context["runAsGroup"],
            "groups": [pod.template["spec"]["securityContext"]["fsGroup"]],
            "command": spec.get("command", entrypoint) + spec.get("args", []),
            "env": {"NO_COLOR": "1", **env, **self.environment(pod, spec)},
        }
        command = ["nsenter", f"--net=/run/netns/{pod.namespace}", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command += [sys.executable, str(TESTS / "container.py"), json.dumps(description)]
        log = pod.directory / f"{spec['name']}.log"
        with open(log, "wb") as sink:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        return Container(spec["name"], spec, log, child)

    # Probes.

    def succeeds(self, pod, container, probe):
        if container.process.poll() is not None:
            raise AssertionError(f"{container.name} ended: {container.log.read_text()}")
        if "exec" in probe:
            context = container.spec["securityContext"]
            enter = ["nsenter", "-t", container.pid(), "-m", "-n", "-p", "-r", "-w", "-S", context["runAsUser"], "-G", context["runAsGroup"]]
            return run(*enter, "--", *probe["exec"]["command"], ok=None).returncode == 0
        ports = {port["name"]: port["containerPort"] for port in container.spec["ports"]}
        target = probe.get("httpGet") or probe["tcpSocket"]
        port = ports.get(target["port"], target["port"])
        if "httpGet" in probe:
            url = f"{target.get('scheme', 'HTTP').lower()}://{pod.address}:{port}{target['path']}"
            return self.on_node("curl", "-fsS", "--max-time", 5, url, ok=None).returncode == 0
        return self.on_node("bash", "-c", f"exec 3<>/dev/tcp/{pod.address}/{port}", ok=None).returncode == 0

    def wait_until_ready(self, pod):
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            for container in pod.containers:
                if name in container.spec:
                    eventually(lambda c=container: self.succeeds(pod, c, c.spec[name]), 120)
        self.publish()

    # The end.

    def stop(self, pod):
        """Ends a pod as a node does: removes it from DNS, runs preStop, sends SIGTERM; fails if the grace period is exceeded."""
        end = time.monotonic() + pod.template["spec"]["terminationGracePeriodSeconds"]
        pod.is_leaving = True
        self.publish()
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda container: self.stop_container(container, end), pod.containers))

    def stop_container(self, container, end):
        time.sleep(container.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0))
        told = time.monotonic()
        os.kill(container.pid(), signal.SIGTERM)
        container.process.wait(max(0.1, end - told))
        container.ended_after = time.monotonic() - told
