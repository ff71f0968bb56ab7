"""The alerts: valid PromQL on metrics that the edge has, the same in the chart and in the component."""

import json
import os
import re

import yaml

from processes import DIST, edge
from rendered import find, load
from tools import CHART, K8S, TESTS, run

TOKEN = "a-token-for-the-tests"


def rules():
    groups = find(load("overlay prometheusrule"), "PrometheusRule", "mcp-gateway")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def parse(expressions):
    """[[names of metrics], first error] of each."""
    return json.loads(run("node", TESTS / "crds" / "promql.mjs", input=json.dumps(expressions)).stdout)


def test_alerts_of_chart_and_component_are_the_same():
    of_chart = find(load("helm3 ways-in-values"), "PrometheusRule", "mcp-gateway")
    assert of_chart["spec"] == find(load("overlay prometheusrule"), "PrometheusRule", "mcp-gateway")["spec"]
    assert of_chart["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert of_chart["metadata"]["labels"]["release"] == "prometheus"


def test_the_guide_names_each_alert_and_repeats_no_rule():
    """Numbers and expressions in a second place would soon differ from those that are in force."""
    section = (K8S / "docs" / "troubleshooting.md").read_text().split("## What to alert on\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [rule["alert"] for rule in rules()]
    assert "mcp_edge_" not in section and not re.search(r"\d+ ?(%|s\b|m\b|minutes)", section)


def test_servers_that_die_or_cannot_be_listed_are_noticed():
    """Both are up all the while: connections are accepted, and the first answer may be a good one."""
    expressions = [rule["expr"] for rule in rules()]
    assert "mcp_edge_upstream_lists_unread > 0 unless mcp_edge_upstream_down == 1" in expressions
    assert "increase(mcp_edge_upstream_connections_died_total[15m]) > 5" in expressions


def test_alerts_are_valid_promql_and_say_what_to_do():
    assert parse(["sum(rate(a[5m]) by (b)"])[0][1]  # the parser finds mistakes
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 7
    for rule, (metrics, error) in zip(rules(), parse([rule["expr"] for rule in rules()])):
        assert error is None and metrics, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical") and rule["for"]
        assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_use_metrics_and_labels_that_an_edge_has(tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"servers:\n  demo: {{command: [{DIST / 'demo-server'}]}}\n  away: {{address: '127.0.0.1:1'}}\nlimits: {{sessions: 1}}\n"
    )
    with edge(tmp_path, f"--config={tmp_path / 'config.yaml'}", token=TOKEN) as running:
        opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        messages = [{"method": "initialize", "params": opening}] * 2 + [{"method": "echo", "params": {"text": "hello"}}]
        for message, path in zip(messages, ("/mcp", "/mcp", "/mcp/call")):
            post(running, path, message)
        exposed = run("curl", "-sS", f"http://{running.admin}/metrics").stdout
    series = re.findall(r"^(mcp_edge_\w+)(\{.*\})? ", exposed, re.MULTILINE)
    labels = {name: set(re.findall(r'(\w+)="', of)) for name, of in series}
    for rule, (metrics, _) in zip(rules(), parse([rule["expr"] for rule in rules()])):
        assert set(metrics) <= set(labels), rule["alert"]
        # `namespace` and `pod` come from Prometheus.
        used = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", rule["expr"])) | set(re.findall(r"by \((.*?)\)", rule["expr"])[0].split(", ") if "by (" in rule["expr"] else ())
        known = set.union(*(labels[metric] for metric in metrics)) | {"namespace"}
        assert used <= known, rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        assert shown <= known | {"pod"}, rule["alert"]
    # Outcomes and results that rules name are those of the edge.
    assert 'mcp_edge_upstream_handshakes_total{server="demo",outcome="done"}' in exposed
    assert 'mcp_edge_refused_total{bound="sessions"} 1' in exposed


def post(running, path, message):
    headers = [f"Authorization: Bearer {TOKEN}", "Content-Type: application/json", "Accept: application/json, text/event-stream"]
    words = [word for header in headers for word in ("-H", header)]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, **message} if path == "/mcp" else message)
    run("curl", "-sS", "--max-time", "30", *words, "-d", body, f"http://{running.address}{path}", env=os.environ)
