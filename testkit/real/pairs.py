"""What the official Python client does in any mode with a fixture of any era, feature by feature, as in pairs.mjs. Each
feature ends in what the client saw. Nothing here knows the server's era."""

import json
import time
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import anyio
import mcp_types as types
from mcp import Client, MCPError
from mcp.client import ClientExtension, ResultClaim

from peer import CALLS_UP_TO, MODERN, check, plain, until

LOG_LEVEL = "io.modelcontextprotocol/logLevel"
TASKS = "io.modelcontextprotocol/tasks"
# Tools that ask and remember what they asked.
ROUNDS = ("elicitation", "sampling", "request_state", "multi_round")
FIRST, SECOND = "test://static-text", "test://watched-resource"


async def tools(peer):
    names = [tool.name for tool in (await peer.client.list_tools()).tools]
    answer = await peer.text("test_simple_text")
    structured = None
    # Of a server that has such a tool: what only the modern era may call structured.
    if "test_structured_array" in names:
        result = await peer.client.call_tool("test_structured_array", {})
        structured = result.structured_content or json.loads(result.content[0].text)
    return {"names": names, "answer": answer, "structured": structured}


async def prompts(peer):
    async def prompt(name, arguments=None):
        messages = (await peer.client.get_prompt(name, arguments)).messages
        return [message.content.text for message in messages]

    return {
        "names": [prompt.name for prompt in (await peer.client.list_prompts()).prompts],
        "plain": await prompt("test_prompt_with_arguments", {"arg1": peer.nonce, "arg2": "two"}),
        "asking": await prompt("test_input_required_result_prompt"),
    }


async def resources(peer):
    async def read(uri):
        return (await peer.client.read_resource(uri)).contents[0]

    missing = None
    try:
        await read("nobody://has/this")
    except MCPError as error:
        missing = error.error.code
    return {
        "uris": [str(resource.uri) for resource in (await peer.client.list_resources()).resources],
        "text": plain(await read(FIRST)),
        "blob": len((await read("test://static-binary")).blob),
        "missing": missing,
    }


async def templates(peer):
    listed = (await peer.client.list_resource_templates()).resource_templates
    contents = (await peer.client.read_resource(f"test://template/{peer.nonce}/data")).contents
    return {"templates": [one.uri_template for one in listed], "data": json.loads(contents[0].text)}


async def completion(peer):
    async def values(reference, name):
        return (await peer.client.complete(reference, {"name": name, "value": "par"})).completion.values

    prompt = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
    template = types.ResourceTemplateReference(type="ref/resource", uri="test://template/{id}/data")
    return {"prompt": await values(prompt, "arg1"), "template": await values(template, "id")}


async def progress(peer):
    seen = []

    async def on_progress(done, _total, _message):
        seen.append(done)

    answer = await peer.text("test_tool_with_progress", progress_callback=on_progress)
    return {"seen": seen, "heard": seen, "answer": answer}


async def cancel(peer):
    """Cancels at the first progress, when the call is certainly under way; the server says when it knows."""
    word = {"word": f"{peer.nonce}-cancel"}
    with anyio.CancelScope() as scope:

        async def on_progress(_done, _total, _message):
            scope.cancel()

        await peer.text("test_wait", word, progress_callback=on_progress)
    check(scope.cancelled_caught, "it ended by itself")
    deadline = time.monotonic() + CALLS_UP_TO
    known = "false"
    while known == "false" and time.monotonic() < deadline:
        known = await peer.text("test_cancelled", word)
    return {"known": known}


async def logged_at(peer, level):
    """A call that logs at four levels, while the client wants this one and worse."""
    word = f"{peer.nonce}-{level}"
    meta = {LOG_LEVEL: level} if peer.modern else None
    if not peer.modern:
        await peer.client.set_logging_level(level)
    await peer.client.call_tool("test_log_levels", {"word": word}, meta=meta)

    def own():
        return [log["level"] for log in peer.logs if log["data"].startswith(f"{word} at ")]

    # The worst is logged last, and nothing overtakes.
    await until(f"what is logged at {level}", lambda: "error" in own())
    return own()


async def logging(peer):
    return {"warning": await logged_at(peer, "warning"), "debug": await logged_at(peer, "debug")}


async def follow(peer, subscription):
    async for event in subscription:
        if uri := getattr(event, "uri", None):
            peer.updates.append(str(uri))
        else:
            peer.lists_changed[type(event).__name__.removesuffix("ListChanged").lower()] += 1


ALL_LISTS = {"tools_list_changed": True, "prompts_list_changed": True, "resources_list_changed": True}


@asynccontextmanager
async def watch(peer, uri=None):
    """Hears of a resource's updates, or of changed lists."""
    if peer.modern:
        wanted = {"resource_subscriptions": [uri, "nobody://has/this"]} if uri else ALL_LISTS
        async with peer.client.listen(**wanted) as subscription, anyio.create_task_group() as group:
            group.start_soon(follow, peer, subscription)
            yield [str(one) for one in subscription.honored.resource_subscriptions or []]
            group.cancel_scope.cancel()
    elif uri:
        await peer.client.subscribe_resource(uri)
        yield [uri]
        await peer.client.unsubscribe_resource(uri)
    else:
        yield []


async def subscriptions(peer):
    updates = peer.updates

    async def touch(uri):
        await peer.text("test_touch", {"uri": uri})

    async with watch(peer, FIRST) as honored:
        await touch(FIRST)
        await until("an update", lambda: FIRST in updates)
    before = list(updates)
    updates.clear()
    async with watch(peer, SECOND):
        # What still comes of the first would come before what comes of the second.
        await touch(FIRST)
        await touch(SECOND)
        await until("the other's update", lambda: SECOND in updates)
    return {"honored": honored, "before": before, "after": list(updates)}


async def lists(client, name):
    """Whether each list has what `name` was added to it."""
    resource = f"test://added/{name}"
    return {
        "tools": any(one.name == name for one in (await client.list_tools()).tools),
        "prompts": any(one.name == name for one in (await client.list_prompts()).prompts),
        "resources": any(str(one.uri) == resource for one in (await client.list_resources()).resources),
    }


async def change(peer, tool, name, there):
    """Has a tool change all lists, and hears of each until all have changed."""
    before = Counter(peer.lists_changed)
    await peer.text(tool, {"name": name})
    while True:
        heard = Counter(peer.lists_changed)
        missing = [kind for kind, has in (await lists(peer.client, name)).items() if has != there]
        if not missing:
            break
        await until(f"changed {missing}", lambda: any(peer.lists_changed[kind] > heard[kind] for kind in missing))
    for kind in ("tools", "prompts", "resources"):
        await until(f"news of {kind}", lambda: peer.lists_changed[kind] > before[kind])


async def list_changes(peer):
    name = f"added_{peer.nonce}"
    async with watch(peer):
        await change(peer, "test_add", name, True)
        messages = (await peer.client.get_prompt(name)).messages
        answers = [await peer.text(name), messages[0].content.text]
        await change(peer, "test_remove", name, False)
    return {"answers": answers}


async def sampling(peer):
    before = len(peer.samplings)
    answer = await peer.text("test_sampling", {"prompt": peer.nonce})
    return {"asked": peer.samplings[before:], "answer": answer}


async def form(peer):
    before = len(peer.elicitations)
    accept = types.ElicitResult(action="accept", content={"response": peer.nonce})
    peer.actions = [accept, types.ElicitResult(action="decline")]
    answers = [await peer.text("test_elicitation", {"message": f"from {peer.nonce}"}) for _ in range(2)]
    return {"asked": peer.elicitations[before:], "answers": answers}


async def url(peer):
    before = len(peer.elicitations)
    peer.actions = [types.ElicitResult(action="accept"), types.ElicitResult(action="decline")]
    page = {"url": f"https://example.org/{peer.nonce}"}
    answers = [await peer.text("test_elicitation_url", page) for _ in range(2)]
    return {"asked": peer.elicitations[before:], "answers": answers}


async def roots(peer):
    return {"answer": await peer.text("test_input_required_result_list_roots")}


async def several(peer):
    return {"answer": await peer.text("test_input_required_result_multiple_inputs")}


async def rounds(peer):
    return {name: await peer.text(f"test_input_required_result_{name}") for name in ROUNDS}


class TaskRequest(types.Request[dict[str, Any], str]):
    """A request about a task, whose id is a header as well."""

    name_param: ClassVar[str | None] = "taskId"


class Handle(types.Result):
    """What comes in the place of a result that takes long."""

    model_config = {"extra": "allow"}
    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class Tasks(ClientExtension):
    """The tasks extension: polls until the result is there, and has the tool released when it is a task."""

    identifier = TASKS

    def __init__(self, release, answer):
        self.release, self.answer = release, answer
        self.statuses = []

    def claims(self):
        return [ResultClaim(result_type="task", model=Handle, resolve=self.resolve)]

    async def resolve(self, handle, context):
        self.statuses.append(handle.status)
        request = TaskRequest(method="tasks/get", params={"taskId": handle.task_id})
        await self.release()
        while self.statuses[-1] in ("working", "input_required"):
            task = (await context.session.send_request(request, Anything)).model_extra
            self.statuses.append(task["status"])
            for key, ask in task.get("inputRequests", {}).items():
                answer = plain(await self.answer(ask))
                params = {"taskId": handle.task_id, "inputResponses": {key: answer}}
                await context.session.send_request(TaskRequest(method="tasks/update", params=params), Anything)
        return types.CallToolResult.model_validate(task["result"])


class Anything(types.Result):
    model_config = {"extra": "allow"}


async def waiting(tool, peer):
    """A tool as a task: made while the tool waits, fetched when it was released. This SDK has none of 2025-11-25."""
    if not peer.modern:
        return None
    word = {"word": f"{peer.nonce}-{tool}"}

    async def release():
        await peer.text("test_release", word)

    async def answer(ask):
        return await peer.on_elicitation(None, types.ElicitRequestFormParams.model_validate(ask["params"]))

    extension = Tasks(release, answer)
    callbacks = {"elicitation_callback": peer.on_elicitation}
    async with peer.over_http(peer.values) as transport:
        async with Client(transport, mode=MODERN, extensions=[extension], **callbacks) as client:
            result = await client.call_tool(tool, word)
    statuses = extension.statuses
    return {"first": statuses[0], "last": statuses[-1], "answer": result.content[0].text}


PAIRS = {
    "tools": tools,
    "prompts": prompts,
    "resources": resources,
    "templates": templates,
    "completion": completion,
    "progress": progress,
    "cancel": cancel,
    "logging": logging,
    "subscriptions": subscriptions,
    "listChanges": list_changes,
    "sampling": sampling,
    "form": form,
    "url": url,
    "roots": roots,
    "several": several,
    "rounds": rounds,
    "tasks": partial(waiting, "test_wait"),
    "askingTasks": partial(waiting, "test_wait_and_ask"),
}
