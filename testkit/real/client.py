"""The official Python client. --era auto (its default), legacy, or a modern version to pin (2026-07-28).

Does to the endpoint what scenario.mjs does: connect, list all, call a tool of each server, read, get,
complete, follow progress, cancel. Prints a report as JSON; the exit code is 0 only if all of it went well.
"""

import argparse
import json
import ssl
import sys
import time
import traceback

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import PromptReference

LONG_SECONDS = 60


def settings():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "servers", "token", "ca", "era", "file", "page"):
        parser.add_argument(f"--{name}")
    return parser.parse_args()


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


async def call(client, name, arguments, expected):
    """Calls a tool; its answer must show that it came from the right server."""
    result = await client.call_tool(name, arguments)
    text = "\n".join(getattr(block, "text", "") for block in result.content)
    check(not result.is_error and expected in text, f"{name} answered {result}")
    return text


async def call_everything(client, _values):
    return await call(client, "echo", {"message": "grüße"}, "Echo: grüße")


async def call_filesystem(client, values):
    return await call(client, "read_text_file", {"path": values.file}, "a file for the tests")


async def call_memory(client, _values):
    entity = {"name": "edge", "entityType": "program", "observations": ["routes"]}
    await call(client, "create_entities", {"entities": [entity]}, "")
    return await call(client, "read_graph", {}, "routes")


async def call_time(client, _values):
    return await call(client, "get_current_time", {"timezone": "Europe/Berlin"}, "Europe/Berlin")


async def call_fetch(client, values):
    return await call(client, "fetch", {"url": values.page}, "a page for the tests")


CALLS = {
    "everything": call_everything,
    "filesystem": call_filesystem,
    "memory": call_memory,
    "time": call_time,
    "fetch": call_fetch,
}


async def pages(list_page, member):
    items, cursor = [], None
    while True:
        page = await list_page(cursor=cursor)
        items += getattr(page, member)
        cursor = page.next_cursor
        if cursor is None:
            return items


async def lists(client, report):
    report["tools"] = [tool.name for tool in await pages(client.list_tools, "tools")]
    report["prompts"] = [prompt.name for prompt in await pages(client.list_prompts, "prompts")]
    report["resources"] = [str(resource.uri) for resource in await pages(client.list_resources, "resources")]
    templates = await pages(client.list_resource_templates, "resource_templates")
    report["templates"] = [template.uri_template for template in templates]


async def everything(client, report):
    listed = next(uri for uri in report["resources"] if uri.startswith("demo://"))
    read = await client.read_resource(listed)
    templated = await client.read_resource("demo://resource/dynamic/text/7")
    report["read"] = {"listed": str(read.contents[0].uri), "templated": templated.contents[0].text}
    check(report["read"]["listed"] == listed, "another resource came back")
    check(report["read"]["templated"].startswith("Resource 7: "), "the template was not filled in")

    prompt = await client.get_prompt("args-prompt", {"city": "Ulm"})
    report["prompt"] = prompt.messages[0].content.text
    check("Ulm" in report["prompt"], "the prompt lacks its argument")

    reference = PromptReference(type="ref/prompt", name="completable-prompt")
    completed = await client.complete(reference, {"name": "department", "value": "S"})
    report["completion"] = completed.completion.values
    check("Sales" in report["completion"], f"completed to {report['completion']}")

    report["progress"] = await progress(client)
    report["cancelledAfter"] = await cancel(client)
    # Nothing of the cancelled call is left in the way of the next one.
    await call_everything(client, None)


async def long(client, duration, steps, on_progress):
    arguments = {"duration": duration, "steps": steps}
    return await client.call_tool("trigger-long-running-operation", arguments, progress_callback=on_progress)


async def progress(client):
    seen = []

    async def on_progress(done, _total, _message):
        seen.append(done)

    result = await long(client, 1, 5, on_progress)
    check("completed" in result.content[0].text, f"the long call answered {result}")
    check(seen and seen == sorted(seen), f"progress came as {seen}")
    return seen


async def cancel(client):
    """Cancels at the first progress, when the call is certainly under way; returns how long it then took."""
    began = time.monotonic()
    with anyio.CancelScope() as scope:

        async def on_progress(_done, _total, _message):
            scope.cancel()

        await long(client, LONG_SECONDS, LONG_SECONDS * 4, on_progress)
    seconds = time.monotonic() - began
    check(scope.cancelled_caught and seconds < LONG_SECONDS / 2, "the call did not end when it was cancelled")
    return seconds


async def run(values, report):
    headers = {"Authorization": f"Bearer {values.token}"} if values.token else {}
    verify = ssl.create_default_context(cafile=values.ca) if values.ca else True
    timeout = httpx2.Timeout(30.0, read=300.0)
    servers = [server for server in (values.servers or "").split(",") if server]
    async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=timeout) as http:
        transport = streamable_http_client(values.url, http_client=http)
        async with Client(transport, mode=values.era or "auto") as client:
            report["protocolVersion"] = client.protocol_version
            report["server"] = client.server_info.model_dump(mode="json") if client.server_info else None
            await lists(client, report)
            for server in servers:
                report["calls"][server] = await CALLS[server](client, values)
            if "everything" in servers:
                await everything(client, report)


def main():
    values = settings()
    report = {"client": "mcp (Python)", "era": values.era or "auto", "calls": {}}
    began = time.monotonic()
    try:
        anyio.run(run, values, report)
    except BaseException:
        report["error"] = traceback.format_exc()
    report["seconds"] = time.monotonic() - began
    print(json.dumps(report))
    sys.exit(1 if "error" in report else 0)


main()
