"""The guides: blocks that are marked as tested run as they are, example files build and are valid, links lead somewhere."""

import os
import re
import shutil
import socket
import sys

import kubernetes_validate
import pytest
import yaml

from processes import DIST
from rendered import NEWEST, OLDEST, find, objects
from tools import CHART, HELM3, K8S, KUBECTL, ROOT, TESTS, run

GUIDES = sorted([*(K8S / "docs").glob("*.md"), K8S / "README.md"])
LONGEST_LINE = 145  # outside tables and code; the other documents of the repository keep to it too
FILE = re.compile(r"<!-- file: (\S+) -->\n+```\w+\n(.*?)```", re.DOTALL)


def test_commands_of_the_guide_to_access_run_as_written(tmp_path):
    guide = K8S / "docs" / "accessing.md"
    done = run("unshare", "--net", "--", sys.executable, TESTS / "guide.py", guide, tmp_path, timeout=200)
    assert "No problem found." in done.stdout  # mcp-edge check
    assert "GET requires an active session" in done.stdout  # curl
    assert "hello" in done.stdout  # the tool
    for kind in ("IngressRoute", "Ingress", "HTTPRoute", "Certificate"):
        assert f"\nkind: {kind}\n" in done.stdout


def test_files_of_the_guide_to_add_a_server_are_valid(tmp_path):
    shutil.copytree(K8S / "sidecar", tmp_path / "k8s" / "sidecar")
    files = FILE.findall((K8S / "docs" / "adding-a-server.md").read_text())
    assert [name for name, _ in files] == ["time/kustomization.yaml", "time/time.yaml"]
    for name, text in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    documents = objects(run(KUBECTL, "kustomize", tmp_path / "time").stdout)
    for version in (OLDEST, NEWEST):
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)
    spec = find(documents, "Deployment", "mcp-gateway")["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["containers"]][0] == "gateway"
    assert "--servers=duckduckgo,fetch,time" in spec["containers"][0]["args"]
    assert spec["containers"][0]["args"][-1] == "--server=time=unix:/run/mcp/time/sock"
    mounts = [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    assert sorted(mounts) == ["/run/mcp/duckduckgo", "/run/mcp/fetch", "/run/mcp/time"]
    server = next(one for one in spec["containers"] if one["name"] == "mcp-time")
    assert server["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_lines_of_prose_are_as_short_as_those_of_other_documents(guide):
    prose = re.sub(r"^ *```.*?^ *```$", "", guide.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in prose.splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_lead_somewhere(guide):
    for link in re.findall(r"\]\(([^)\s]+)\)", guide.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (guide.parent / name).resolve() if name else guide
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_documents_that_the_chart_names_exist():
    for path in (one for one in CHART.rglob("*") if one.is_file()):
        for name in re.findall(r"[\w./-]+\.md\b", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name}: {name}"
            # The chart may have been downloaded alone.
            assert f"{name} of the repository" in path.read_text(), f"{path.name}: {name}"


def test_what_the_moving_guide_says_of_flags_holds():
    """The program refuses, with its name, each flag that the table calls gone, and knows every other one."""
    table = (K8S / "docs" / "moving.md").read_text().split("## Flag by flag")[1].split("\n\n")[1]
    gone, kept = set(), set()
    for row in table.splitlines()[2:]:
        flags, meaning = [cell.strip() for cell in row.strip("|").split("|", 1)]
        found = set(re.findall(r"--[a-z-]+[a-z]\b(?!-\*)", flags))
        is_gone = meaning.startswith(("gone", "NetworkPolicy", "Secrets", "`resources`"))
        (gone if is_gone else kept).update(found)
    assert {"--static", "--transport", "--servers", "--block-secrets"} <= kept and {"--catalog", "--watch"} <= gone
    known = set(re.findall(r"--[a-z-]+", run(DIST / "mcp-edge", "--help").stdout))
    assert kept <= known and not gone & known
    for flag in gone:
        done = run(DIST / "mcp-edge", flag, ok=(2,), env={**os.environ, "MCP_GATEWAY_AUTH_TOKEN": "x"})
        assert flag in done.stderr


def test_policies_of_guides_let_nobody_go_everywhere():
    """Policies add up: a rule with ports but without `to` opens what the manifests close, also for servers in the edge's pod."""
    shown = 0
    for guide in GUIDES:
        for block in re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL):
            for document in yaml.safe_load_all(block):
                rules = document if isinstance(document, list) else []
                if isinstance(document, dict) and document.get("kind") == "NetworkPolicy":
                    rules = document["spec"].get("egress", [])
                    for version in (OLDEST, NEWEST):
                        kubernetes_validate.validate(document, version, strict=True)
                for rule in (one for one in rules if isinstance(one, dict) and "ports" in one):
                    assert rule.get("to"), f"{guide.name}: {rule}"
                    for block_of in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                        if block_of["cidr"] == "0.0.0.0/0":
                            assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(block_of["except"]), guide.name
                    shown += 1
    assert shown >= 2


def test_values_of_guides_render(tmp_path):
    properties = set(yaml.safe_load((CHART / "values.schema.json").read_text())["properties"])
    shown = 0
    for guide in GUIDES:
        for block in re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL):
            document = next(yaml.safe_load_all(block))
            if isinstance(document, dict) and set(document) & {"config", "gateway", "servers"} and set(document) <= properties:
                (tmp_path / "values.yaml").write_text(block)
                done = run(HELM3, "template", "mcp", CHART, "--kube-version", f"{OLDEST}.0", "--values", tmp_path / "values.yaml")
                for one in objects(done.stdout):
                    kubernetes_validate.validate(one, NEWEST, strict=True)
                shown += 1
    assert shown >= 4


def test_messages_that_guides_quote_exist():
    """Users search their logs for these messages."""
    text = (K8S / "docs" / "troubleshooting.md").read_text()
    sources = "".join(path.read_text() for room in ("edge", "bridge") for path in (ROOT / room / "src").rglob("*.rs"))
    sources = re.sub(r"\\\n\s*", "", sources)
    quoted = {
        "could not be listed",
        "server is down",
        "says nothing",
        "cannot be reached: ",
        "closed the connection before it answered",
        "only replicas with the same keys, and clocks within a minute, are served here",
        "the replica that holds this did not answer; try again",
        "replicas need one key in common",
        "GET requires an active session",
        "it is full or fails at start",
    }
    assert set(re.findall(r"grep '([^']+)'", text)) <= quoted
    for message in quoted:
        assert message in text and message in sources, message


def test_the_guides_quote_the_error_of_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(DIST / "docker-mcp-bridge", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--", "true", ok=(1,), timeout=30)
    assert "Address already in use" in done.stderr
    for name in ("moving.md", "troubleshooting.md"):
        quoted = re.findall(r"`(Address [^`]*)`", (K8S / "docs" / name).read_text())
        assert quoted == ["Address already in use"], name
