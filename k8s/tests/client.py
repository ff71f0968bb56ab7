"""The official Python client: lists the tools of an endpoint and calls some, then prints the results as JSON.

    client.py URL [--ca FILE] [--mode auto|legacy] TOOL=ARGUMENTS-AS-JSON …      (the token: MCP_GATEWAY_AUTH_TOKEN)
"""

import argparse
import json
import os
import ssl

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("calls", nargs="*")
    given = parser.parse_intermixed_args()
    verify = ssl.create_default_context(cafile=given.ca) if given.ca else True
    headers = {"Authorization": f"Bearer {os.environ['MCP_GATEWAY_AUTH_TOKEN']}"}
    report = {"calls": {}}
    async with httpx2.AsyncClient(headers=headers, verify=verify, timeout=httpx2.Timeout(60)) as http:
        async with Client(streamable_http_client(given.url, http_client=http), mode=given.mode) as client:
            report["tools"] = sorted(tool.name for tool in (await client.list_tools()).tools)
            for call in given.calls:
                name, _, arguments = call.partition("=")
                result = await client.call_tool(name, json.loads(arguments))
                text = "\n".join(getattr(block, "text", "") for block in result.content)
                report["calls"][name] = {"error": bool(result.is_error), "text": text}
    print(json.dumps(report))


anyio.run(main)
