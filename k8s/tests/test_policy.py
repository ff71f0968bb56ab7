"""The policy scan, and the assumptions of its exceptions."""

import json
import re

import pytest

from rendered import NAMES, containers, load, pods, text
from tools import ROOT, TESTS, run

CHECKOV = TESTS / ".checkov" / "bin" / "checkov"


def scan(directory):
    options = ["--directory", directory, "--config-file", TESTS / "checkov.yaml", "--output", "json"]
    done = run(CHECKOV, *options, ok=(0, 1), cwd=directory, timeout=600)
    reports = json.loads(done.stdout)
    return reports if isinstance(reports, list) else [reports]


def failures(reports):
    return sorted(
        {
            f"{check['check_id']} {check['check_name']}: {check['resource']} in {check['file_path']}"
            for report in reports
            for check in report["results"]["failed_checks"]
        }
    )


def test_everything_passes(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name.replace(' ', '-')}.yaml").write_text(text(name))
    for dockerfile in ("Dockerfile.bridge", "Dockerfile.edge"):
        (tmp_path / dockerfile).write_text((ROOT / dockerfile).read_text())
    reports = scan(tmp_path)
    assert {report["check_type"] for report in reports} == {"kubernetes", "dockerfile"}
    assert sum(report["summary"]["passed"] for report in reports) > 5000
    assert sum(report["summary"]["parsing_errors"] for report in reports) == 0
    assert failures(reports) == []


def test_the_scan_finds_what_is_wrong(tmp_path):
    wrong = text("base sidecar").replace("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")
    (tmp_path / "wrong.yaml").write_text(wrong)
    assert any(line.startswith("CKV_K8S_20 ") for line in failures(scan(tmp_path)))


@pytest.mark.parametrize("name", [name for name in NAMES if "options" not in name])
def test_every_image_of_others_has_a_digest(name):
    for _, template in pods(load(name)):
        for container in containers(template):
            image = container["image"]
            assert image == "mcp-edge:0.1.0" or "@sha256:" in image


@pytest.mark.parametrize("name", ["Dockerfile.bridge", "Dockerfile.edge"])
def test_base_images_are_pinned(name):
    lines = (ROOT / name).read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["${RUST_IMAGE}", "scratch"]
    pinned = r"ARG RUST_IMAGE=docker\.io/library/rust:\d+\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}"
    defaults = [line for line in lines if line.startswith("ARG RUST_IMAGE=")]
    assert len(defaults) == 1 and re.fullmatch(pinned, defaults[0])
