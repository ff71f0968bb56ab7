"""Everything that k8s/ renders to: bases, overlays, each base with each component that fits it, and the chart with each file of
values in ci/, by Helm 3 and by Helm 4."""

import os
import functools

import helm_python
import yaml

from tools import CHART, HELM3, K8S, KUBECTL, TOOLS, run

SHAPES = ("sidecar", "multi-pod")
COMPONENTS = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
VALUES = tuple(sorted((CHART / "ci").glob("*-values.yaml")))
# The oldest minor release that has everything we use (preStop.sleep, on by default since 1.30), and the newest one.
OLDEST, NEWEST = "1.30", "1.37"

# In one pod the edge has the servers beside it, so it cannot have replicas.
PAIRS = [(shape, component) for shape in SHAPES for component in COMPONENTS if (shape, component) != ("sidecar", "replicas")]
NAMES = (
    [f"base {shape}" for shape in SHAPES]
    + [f"overlay {name}" for name in sorted(path.name for path in (K8S / "overlays").iterdir())]
    + [f"{shape} with {component}" for shape, component in PAIRS]
    + [f"helm{version} {path.stem}" for version in (3, 4) for path in VALUES]
)
# The number of edges where there are several.
EDGES = {"overlay replicas": 2, "multi-pod with replicas": 2}
EDGES |= {f"helm{version} {values}": count for version in (3, 4) for values, count in (("options-values", 2), ("replicas-values", 3))}


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def text(name):
    """The YAML as it is applied to the cluster."""
    kind, _, rest = name.partition(" ")
    if kind in ("base", "overlay"):
        return run(KUBECTL, "kustomize", K8S / rest if kind == "base" else K8S / "overlays" / rest).stdout
    if kind in SHAPES:
        path = f"{TOOLS}:{os.environ['PATH']}"
        component = rest.removeprefix("with ")
        command = ["./deploy.sh", "--dry-run", "--shape", kind, "--overlay", component, "--host", "mcp.example.org"]
        return run(*command, cwd=K8S, env={**os.environ, "PATH": path}).stdout
    return chart(kind, CHART / "ci" / f"{rest}.yaml")


def chart(kind, values):
    if kind == "helm3":
        return run(HELM3, "template", "mcp", CHART, "--kube-version", f"{OLDEST}.0", "--values", values).stdout
    with helm_python.Chart.load(CHART) as loaded:
        files = loaded.render(values=yaml.safe_load(values.read_text()), name="mcp", namespace="default")
    return "\n---\n".join(body for path, body in files.items() if not path.endswith("NOTES.txt"))


def load(name):
    return objects(text(name))


def find(documents, kind, name):
    """The one object of this kind and name."""
    found = [one for one in documents if one["kind"] == kind and one["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def pods(documents):
    """(name of the Deployment, its pod template) of each."""
    return [(one["metadata"]["name"], one["spec"]["template"]) for one in documents if one["kind"] == "Deployment"]


def containers(template):
    spec = template["spec"]
    return spec.get("initContainers", []) + spec["containers"]
