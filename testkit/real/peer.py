"""The official Python client with everything that it was asked and told, and what it answers, as in peer.mjs."""

import time
from collections import Counter

import anyio
import mcp_types as types

CALLS_UP_TO = 60.0
POLL_SECONDS = 0.01
MODERN = "2026-07-28"
# What is put into a form, unless a feature says what to do.
FIELDS = {"name": "Ada", "color": "green", "ok": True, "context": "the tests"}


def check(condition, sentence):
    if not condition:
        raise AssertionError(sentence)


async def until(what, condition):
    """Waits for a condition; only a failing run waits to the end."""
    deadline = time.monotonic() + CALLS_UP_TO
    while not condition():
        check(time.monotonic() < deadline, f"waited in vain for {what}")
        await anyio.sleep(POLL_SECONDS)


class Peer:
    """A client with everything that it was asked and told."""

    def __init__(self, values, over_http):
        self.over_http = over_http
        self.values, self.nonce, self.control = values, values.nonce, values.control
        self.client = None
        self.samplings, self.elicitations, self.logs, self.updates = [], [], [], []
        self.roots_asked, self.lists_changed = 0, Counter()
        self.roots = [types.Root(uri=f"file:///{self.nonce}/1", name="first")]
        self.actions = []

    async def on_sampling(self, _context, params):
        self.samplings.append(plain(params))
        content = types.TextContent(type="text", text=f"{self.nonce} samples")
        return types.CreateMessageResult(model="a-model", role="assistant", content=content)

    async def on_elicitation(self, _context, params):
        self.elicitations.append(plain(params))
        if self.actions:
            return self.actions.pop(0)
        fields = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={field: FIELDS[field] for field in fields})

    async def on_roots(self, _context):
        self.roots_asked += 1
        return types.ListRootsResult(roots=self.roots)

    async def on_log(self, params):
        self.logs.append(plain(params))

    async def on_message(self, message):
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updates.append(str(message.params.uri))
        method = getattr(message, "method", "")
        if method.endswith("/list_changed"):
            self.lists_changed[method.split("/")[1]] += 1

    def callbacks(self):
        return {
            "sampling_callback": self.on_sampling,
            "elicitation_callback": self.on_elicitation,
            "list_roots_callback": self.on_roots,
            "logging_callback": self.on_log,
            "message_handler": self.on_message,
        }

    @property
    def modern(self):
        return self.client.protocol_version == MODERN

    async def text(self, name, arguments=None, **options):
        result = await self.client.call_tool(name, arguments or {}, **options)
        check(not result.is_error, f"{name} answered {result}")
        return "\n".join(getattr(block, "text", "") for block in result.content)

    async def add_root(self):
        number = len(self.roots) + 1
        root = types.Root(uri=f"file:///{self.nonce}/{number}", name=f"root {number}")
        self.roots = [*self.roots, root]
        await self.client.send_roots_list_changed()

    def roots_logged(self, count):
        line = f"Roots updated: {count} root(s) received from client"
        return sum(log["data"] == line for log in self.logs)


def plain(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
