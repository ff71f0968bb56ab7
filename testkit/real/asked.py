"""The official Python client, asked by servers: --era legacy, or a modern version to pin.

Answers and calls what asked.mjs does. Prints a report as JSON; the exit code is 0 only if all of it went well.
"""

import argparse
import json
import sys
import traceback

import anyio
import httpx2
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client

FIELDS = {"name": "Ada", "color": "green", "ok": True, "context": "the tests"}
TOOLS = ("elicitation", "sampling", "list_roots", "request_state", "multiple_inputs", "multi_round")


def settings():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "token", "era"):
        parser.add_argument(f"--{name}")
    return parser.parse_args()


async def elicited(_context, params):
    fields = params.requested_schema["properties"]
    return types.ElicitResult(action="accept", content={field: FIELDS[field] for field in fields})


async def sampled(_context, _params):
    content = types.TextContent(type="text", text="Paris")
    return types.CreateMessageResult(role="assistant", model="a-model", content=content)


async def roots(_context):
    return types.ListRootsResult(roots=[types.Root(uri="file:///a-root", name="a root")])


async def structured(client):
    """Of a server that has such a tool: what only the modern era may call structured."""
    listed = await client.list_tools()
    if not any(tool.name == "test_structured_array" for tool in listed.tools):
        return None
    result = await client.call_tool("test_structured_array", {})
    return result.structured_content or json.loads(result.content[0].text)


async def run(values, report):
    headers = {"Authorization": f"Bearer {values.token}"} if values.token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30.0, read=300.0)) as http:
        transport = streamable_http_client(values.url, http_client=http)
        asked = {
            "elicitation_callback": elicited,
            "sampling_callback": sampled,
            "list_roots_callback": roots,
        }
        async with Client(transport, mode=values.era, **asked) as client:
            report["protocolVersion"] = client.protocol_version
            for tool in TOOLS:
                result = await client.call_tool(f"test_input_required_result_{tool}", {})
                report["calls"][tool] = "\n".join(block.text for block in result.content)
            report["calls"]["structured"] = await structured(client)
            prompt = await client.get_prompt("test_input_required_result_prompt")
            report["calls"]["prompt"] = prompt.messages[0].content.text


def main():
    report = {"calls": {}}
    try:
        anyio.run(run, settings(), report)
    except BaseException:
        report["error"] = traceback.format_exc()
    print(json.dumps(report))
    sys.exit(1 if "error" in report else 0)


main()
