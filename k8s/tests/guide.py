"""Runs the blocks of a guide that are marked `<!-- run -->`, in their order and in one shell, in a network of its own:

    unshare --net guide.py GUIDE DIRECTORY

kubectl is the fake one that records commands; behind it are a real edge and the demo server. A block marked `background` keeps running while
the others run, which start once its port answers.
"""

import pathlib
import re
import subprocess
import sys

from processes import DIST, edge_with_demo_server
from test_scripts import Cluster
from tools import K8S

BLOCK = re.compile(r"<!-- run( background)? -->\n+```sh\n(.*?)```", re.DOTALL)


def script(text):
    parts = ["set -euo pipefail", "trap '[ -z \"${waiting:-}\" ] || kill $waiting' EXIT"]
    for background, block in BLOCK.findall(text):
        if background:
            port = re.search(r"\b(\d{4,5})\b", block)[1]
            parts += [f"(exec {block.strip()}) & waiting=$!", f"until curl -s -o /dev/null localhost:{port}; do sleep 0.1; done"]
        else:
            parts.append(block)
    return "\n".join(parts)


def main():
    guide, directory = map(pathlib.Path, sys.argv[1:])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with edge_with_demo_server(directory) as edge:
        cluster = Cluster(directory)
        cluster.run("deploy.sh", MCP_GATEWAY_AUTH_TOKEN=edge.token)
        env = {**cluster.env, "PATH": f"{DIST}:{cluster.env['PATH']}", "FAKE_BACKEND": edge.address}
        text = script(guide.read_text())
        done = subprocess.run(["bash", "-c", text], cwd=K8S, env=env, timeout=120, check=False)
    sys.exit(done.returncode)


main()
