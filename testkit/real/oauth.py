"""What the official Python client does at an endpoint that wants tokens of an authorization server, as in
oauth_client.mjs: it is refused, finds that server, registers, has its user agree, gets a token, calls a tool; then its
token runs out by its own clock, and it gets another one by its refresh token.

--url URL   the endpoint   --transport streaming | sse   --era auto | legacy | a modern version
"""

import argparse
import json
import sys
import time
import traceback
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urljoin, urlsplit

import anyio
import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

REDIRECT = "http://127.0.0.1:9/callback"


class Storage:
    """Whatever the SDK wants to be kept, in memory."""

    def __init__(self):
        self.tokens, self.client, self.seen = None, None, []

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.seen.append(tokens.access_token)
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client_info):
        self.client = client_info


class User:
    """Follows the authorization server's redirects to the callback, as a browser would."""

    def __init__(self):
        self.said = {}

    async def agree(self, url):
        async with httpx2.AsyncClient(follow_redirects=False) as browser:
            for _ in range(10):
                response = await browser.get(url)
                if "location" not in response.headers:
                    raise AssertionError(f"{url} answers {response.status_code}: {response.text}")
                url = urljoin(url, response.headers["location"])
                if url.startswith(REDIRECT):
                    self.said = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
                    return
        raise AssertionError("the redirects have no end")

    async def callback(self):
        said = self.said
        return AuthorizationCodeResult(code=said["code"], state=said.get("state"), iss=said.get("iss"))


@asynccontextmanager
async def connected(values, provider):
    if values.transport == "sse":
        async with Client(sse_client(values.url, auth=provider), mode="legacy") as client:
            yield client
        return
    async with httpx2.AsyncClient(auth=provider) as http:
        transport = streamable_http_client(values.url, http_client=http)
        async with Client(transport, mode=values.era or "auto") as client:
            yield client


async def run(values, report):
    storage, user = Storage(), User()
    metadata = OAuthClientMetadata(
        client_name="a client of the tests",
        redirect_uris=[REDIRECT],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="none",
        application_type="native",
    )
    provider = OAuthClientProvider(
        server_url=values.url,
        client_metadata=metadata,
        storage=storage,
        redirect_handler=user.agree,
        callback_handler=user.callback,
    )
    async with connected(values, provider) as client:
        report["tools"] = [tool.name for tool in (await client.list_tools()).tools]
        report["refused"] = len(storage.seen) == 1

        async def call():
            return (await client.call_tool("t0", {})).content[0].text

        report["before"] = await call()
        provider.context.token_expiry_time = time.time() - 1
        report["after"] = await call()
        report["tokens"] = len(set(storage.seen))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("url", "transport", "era"):
        parser.add_argument(f"--{name}")
    values, report = parser.parse_args(), {}
    try:
        anyio.run(run, values, report)
    except BaseException:
        report["error"] = traceback.format_exc()
    print(json.dumps(report))
    sys.exit(1 if "error" in report else 0)


main()
