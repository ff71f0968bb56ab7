"""The official Python client at 2026-07-28: listens to resources and lists of legacy and modern servers, as
changes.mjs does. The exit code is 0 only if all of it was heard."""

import argparse
import json
import sys
import time
import traceback

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

# server-everything (legacy), changing.mjs 1 (legacy) and 2 (modern)
URIS = ["demo://resource/dynamic/text/1", "note://v1/1", "note://v2/1"]
SECONDS = 60


def settings():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "token", "lists"):
        parser.add_argument(f"--{name}")
    return parser.parse_args()


async def heard(subscription, uri=None):
    """Waits for news of the resource, or of changed tools."""
    with anyio.fail_after(SECONDS):
        async for event in subscription:
            if str(getattr(event, "uri", "")) == (uri or "") and ("Tools" in type(event).__name__) == (uri is None):
                return
    raise AssertionError(f"the stream ended before {uri or 'changed tools'}")


async def follow(client, subscription, lists):
    honored = sorted(str(uri) for uri in subscription.honored.resource_subscriptions)
    assert honored == sorted(URIS) and subscription.honored.tools_list_changed, subscription.honored
    await client.call_tool("toggle-subscriber-updates", {})
    await heard(subscription, URIS[0])
    for n in (1, 2, 1, 2):
        await client.call_tool(f"touch_v{n}", {"uri": URIS[n]})
        await heard(subscription, URIS[n])
    for at, file in enumerate(lists):
        name = f"added-{at}-{time.time_ns()}"
        with open(file, "a", encoding="utf-8") as tools:
            tools.write(f"{name}\n")
        while True:
            await heard(subscription)
            if any(tool.name == name for tool in (await client.list_tools()).tools):
                break


async def run(values, report):
    headers = {"Authorization": f"Bearer {values.token}"}
    timeout = httpx2.Timeout(30.0, read=300.0)
    async with httpx2.AsyncClient(headers=headers, timeout=timeout) as http:
        transport = streamable_http_client(values.url, http_client=http)
        async with Client(transport, mode="2026-07-28") as client:
            report["protocolVersion"] = client.protocol_version
            wanted = [*URIS, "nobody://has/this"]
            async with client.listen(tools_list_changed=True, resource_subscriptions=wanted) as subscription:
                await follow(client, subscription, values.lists.split(","))


def main():
    values = settings()
    report = {}
    try:
        anyio.run(run, values, report)
    except BaseException:
        report["error"] = traceback.format_exc()
    print(json.dumps(report))
    sys.exit(1 if "error" in report else 0)


main()
