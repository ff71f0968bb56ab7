"""The official Python client, feature by feature: in its session-based mode with server-everything, or with
`--set pairs` in any mode with the fixtures (`pairs.py`). Does what features.mjs does, with the same options, and prints
the same report; the test that started it judges."""

import argparse
import json
import re
import sys
import time
import traceback
import warnings
from contextlib import asynccontextmanager

import anyio
import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from pairs import PAIRS
from peer import CALLS_UP_TO, Peer, check, plain, until

LONG_SECONDS = 60


def settings():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("transport", "nonce", "url", "token", "control", "set", "era"):
        parser.add_argument(f"--{name}")
    parser.add_argument("command", nargs="*")
    return parser.parse_args()


def resource(number):
    return f"demo://resource/dynamic/text/{number}"


async def tools(peer):
    return {"tools": [tool.name for tool in (await peer.client.list_tools()).tools]}


async def sampling(peer):
    answer = await peer.text("trigger-sampling-request", {"prompt": peer.nonce, "maxTokens": 17})
    return {"asked": list(peer.samplings), "answer": answer}


async def elicitation(peer):
    content = {"name": peer.nonce, "check": True, "integer": 7}
    peer.actions = [
        types.ElicitResult(action="accept", content=content),
        types.ElicitResult(action="decline"),
        types.ElicitResult(action="accept"),
    ]
    accepted = await peer.text("trigger-elicitation-request")
    declined = await peer.text("trigger-elicitation-request")
    url = {"url": f"https://example.org/{peer.nonce}", "elicitationId": peer.nonce}
    visited = await peer.text("trigger-url-elicitation", url)
    return {"asked": list(peer.elicitations), "accepted": accepted, "declined": declined, "visited": visited}


async def roots(peer):
    before = await peer.text("get-roots-list")
    logged = peer.roots_logged(2)
    await peer.add_root()
    await until("the server to take the new root", lambda: peer.roots_logged(2) > logged)
    return {"asked": peer.roots_asked, "before": before, "after": await peer.text("get-roots-list")}


async def subscription(peer):
    client, updates = peer.client, peer.updates
    await client.subscribe_resource(resource(1))
    await peer.text("toggle-subscriber-updates")
    await until("an update", lambda: resource(1) in updates)
    await peer.text("toggle-subscriber-updates")
    await client.unsubscribe_resource(resource(1))
    first = list(updates)
    updates.clear()
    # The server goes through its resources in the order of their first subscription, so with the second's update
    # one of the first would have come.
    await client.subscribe_resource(resource(2))
    await peer.text("toggle-subscriber-updates")
    await until("the other's update", lambda: resource(2) in updates)
    await peer.text("toggle-subscriber-updates")
    await client.unsubscribe_resource(resource(2))
    return {"first": first, "then": list(updates)}


async def logging(peer):
    """The server logs each subscription at `info`."""
    client, logs = peer.client, peer.logs

    def of(number):
        return [log for log in logs if resource(number) in str(log["data"])]

    def simulated():
        return [log for log in logs if re.search("-level message|level-message", str(log["data"]))]

    await client.set_logging_level("info")
    await client.subscribe_resource(resource(11))
    await until("a log message", lambda: of(11))
    await client.set_logging_level("error")
    await client.subscribe_resource(resource(12))
    await client.set_logging_level("debug")
    await client.subscribe_resource(resource(13))
    await until("a log message after the silence", lambda: of(13))
    await peer.text("toggle-simulated-logging")
    await until("a simulated log message", simulated)
    await peer.text("toggle-simulated-logging")
    counts = [len(of(number)) for number in (11, 12, 13)]
    return {"counts": counts, "levels": [log["level"] for log in of(11)], "simulated": simulated()}


def long(duration, steps):
    return "trigger-long-running-operation", {"duration": duration, "steps": steps}


async def progress(peer):
    seen = []

    async def on_progress(done, _total, _message):
        seen.append(done)

    answer = await peer.text(*long(0.5, 5), progress_callback=on_progress)
    return {"seen": seen, "heard": seen, "answer": answer}


async def cancel(peer):
    """Cancels at the first progress, when the call is certainly under way."""
    began = time.monotonic()
    with anyio.CancelScope() as scope:

        async def on_progress(_done, _total, _message):
            scope.cancel()

        await peer.text(*long(LONG_SECONDS, LONG_SECONDS * 4), progress_callback=on_progress)
    check(scope.cancelled_caught, "it ended by itself")
    seconds = time.monotonic() - began
    return {"seconds": seconds, "next": await peer.text("echo", {"message": peer.nonce})}


async def completion(peer):
    prompt = types.PromptReference(type="ref/prompt", name="completable-prompt")
    template = types.ResourceTemplateReference(
        type="ref/resource", uri="demo://resource/dynamic/text/{resourceId}"
    )

    async def values(reference, name, value, context=None):
        argument = {"name": name, "value": value}
        return (await peer.client.complete(reference, argument, context)).completion.values

    return {
        "departments": await values(prompt, "department", "S"),
        "names": await values(prompt, "name", "E", {"department": "Sales"}),
        "template": await values(template, "resourceId", "7"),
    }


async def ping(peer):
    return {"answer": plain(await peer.client.send_ping())}


class Cut:
    """Arms the fault proxy; returns when it is armed."""

    @classmethod
    async def arm(cls, peer, order):
        self = cls()
        host, port = peer.control.split(":")
        self.stream = await anyio.connect_tcp(host, int(port))
        self.said = b""
        await self.stream.send(f"{order}\n".encode())
        await self.hear(b"armed\n")
        return self

    async def hear(self, word):
        while not self.said.startswith(word):
            self.said += await self.stream.receive()
        self.said = self.said[len(word) :]

    async def done(self):
        await self.hear(b"cut\n")
        await self.stream.aclose()


async def resumed_call(peer):
    """A call whose stream breaks in the middle: three of its events are sent and never arrive."""
    seen, cuts = [], []

    async def on_progress(done, _total, _message):
        seen.append(done)
        if done == 3:
            cuts.append(await Cut.arm(peer, "POST 3"))

    answer = await peer.text(*long(2, 20), progress_callback=on_progress)
    await cuts[0].done()
    return {"seen": seen, "heard": seen, "answer": answer}


async def resumed_listen(peer):
    """The session's own stream breaks: three questions are sent on it and never arrive."""
    asked = peer.roots_asked
    peer.roots = [*peer.roots, types.Root(uri=f"file:///{peer.nonce}/more", name="one more")]
    count = len(peer.roots)
    cut = await Cut.arm(peer, "GET 3")
    for _ in range(3):
        await peer.client.send_roots_list_changed()
    await cut.done()
    await until("the questions to be answered", lambda: peer.roots_logged(count) >= 3)
    # The stream keeps its order: what comes after the next question would have come before it.
    await peer.add_root()
    await until("the next question", lambda: peer.roots_logged(count + 1) > 0)
    logged = [peer.roots_logged(count), peer.roots_logged(count + 1)]
    return {"asked": peer.roots_asked - asked, "logged": logged}


FEATURES = {
    "tools": tools,
    "sampling": sampling,
    "elicitation": elicitation,
    "roots": roots,
    "subscription": subscription,
    "logging": logging,
    "progress": progress,
    "cancel": cancel,
    "completion": completion,
    "ping": ping,
}
RESUMPTIONS = {"resumedCall": resumed_call, "resumedListen": resumed_listen}


async def play(peer, transport, report):
    features = PAIRS if peer.values.set == "pairs" else FEATURES
    mode = peer.values.era or "legacy"
    async with Client(transport, mode=mode, read_timeout_seconds=CALLS_UP_TO, **peer.callbacks()) as client:
        peer.client = client
        report["version"] = client.protocol_version
        for name, feature in {**features, **(RESUMPTIONS if peer.control else {})}.items():
            try:
                report["cells"][name] = {"saw": await feature(peer)}
            except Exception:
                report["cells"][name] = {"error": traceback.format_exc()}


@asynccontextmanager
async def over_http(values):
    headers = {"Authorization": f"Bearer {values.token}"}
    timeout = httpx2.Timeout(CALLS_UP_TO, read=300.0)
    async with httpx2.AsyncClient(headers=headers, timeout=timeout) as http:
        yield streamable_http_client(values.url, http_client=http)


async def run(values, report):
    peer = Peer(values, over_http)
    headers = {"Authorization": f"Bearer {values.token}"}
    if values.transport == "http":
        async with over_http(values) as transport:
            await play(peer, transport, report)
    elif values.transport == "sse":
        await play(peer, sse_client(values.url, headers=headers, timeout=CALLS_UP_TO), report)
    else:
        command, *args = values.command
        await play(peer, StdioServerParameters(command=command, args=args), report)


def main():
    # This part of the protocol is deprecated, which is why it is tested here.
    warnings.simplefilter("ignore")
    values = settings()
    report = {"client": "mcp (Python)", "transport": values.transport, "cells": {}}
    try:
        anyio.run(run, values, report)
    except BaseException:
        report["error"] = traceback.format_exc()
    print(json.dumps(report))
    sys.stdout.flush()


main()
