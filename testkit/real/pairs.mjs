// What a TypeScript client of any era does with a fixture of any era, feature by feature; pairs.py does the same in
// Python. Each feature ends in what the client saw. Nothing here knows the server's era.

import assert from "node:assert/strict";

import { until } from "./peer.mjs";

const LOG_LEVEL = "io.modelcontextprotocol/logLevel";
const [FIRST, SECOND] = ["test://static-text", "test://watched-resource"];
/** Tools that ask and remember what they asked. */
const ROUNDS = ["elicitation", "sampling", "request_state", "multi_round"];
const LONG_MS = 60_000;

export const PAIRS = {
  tools,
  prompts,
  resources,
  templates,
  completion,
  progress,
  cancel,
  logging,
  subscriptions,
  listChanges,
  sampling,
  form,
  url,
  roots,
  several,
  rounds,
};

/** The features of tasks, by what calls a tool of this name as one. */
export const tasksBy = (call) => ({
  tasks: (peer) => call("test_wait", peer),
  askingTasks: (peer) => call("test_wait_and_ask", peer),
});

async function tools(peer) {
  const names = (await peer.client.listTools()).tools.map(({ name }) => name);
  const answer = await peer.text("test_simple_text");
  // Of a server that has such a tool: what only the modern era may call structured.
  const has = names.includes("test_structured_array");
  const { content, structuredContent } = has ? await peer.call({ name: "test_structured_array" }) : {};
  return { names, answer, structured: has ? (structuredContent ?? JSON.parse(content[0].text)) : null };
}

async function prompts(peer) {
  const { client, nonce } = peer;
  const get = async (name, args) => {
    const { messages } = await client.getPrompt({ name, arguments: args });
    return messages.map(({ content }) => content.text);
  };
  return {
    names: (await client.listPrompts()).prompts.map(({ name }) => name),
    plain: await get("test_prompt_with_arguments", { arg1: nonce, arg2: "two" }),
    asking: await get("test_input_required_result_prompt"),
  };
}

async function resources({ client, raw }) {
  const read = async (uri) => (await client.readResource({ uri })).contents[0];
  await assert.rejects(read("nobody://has/this"));
  // One of the SDKs has another code of its own for it.
  const missing = raw.at(-1).error.code;
  return {
    uris: (await client.listResources()).resources.map(({ uri }) => uri),
    text: await read(FIRST),
    blob: (await read("test://static-binary")).blob.length,
    missing,
  };
}

async function templates({ client, nonce }) {
  const { resourceTemplates } = await client.listResourceTemplates();
  const { contents } = await client.readResource({ uri: `test://template/${nonce}/data` });
  return { templates: resourceTemplates.map(({ uriTemplate }) => uriTemplate), data: JSON.parse(contents[0].text) };
}

async function completion({ client }) {
  const values = async (ref, name) =>
    (await client.complete({ ref, argument: { name, value: "par" } })).completion.values;
  return {
    prompt: await values({ type: "ref/prompt", name: "test_prompt_with_arguments" }, "arg1"),
    template: await values({ type: "ref/resource", uri: "test://template/{id}/data" }, "id"),
  };
}

async function progress(peer) {
  peer.progress = [];
  const heard = [];
  const onprogress = ({ progress }) => heard.push(progress);
  const result = await peer.call({ name: "test_tool_with_progress", arguments: {} }, { onprogress });
  return { seen: peer.progress.splice(0), heard, answer: result.content[0].text };
}

/** Cancels at the first progress, when the call is certainly under way; the server says when it knows. */
async function cancel(peer) {
  const word = `${peer.nonce}-cancel`;
  const controller = new AbortController();
  const options = { onprogress: () => controller.abort("enough"), signal: controller.signal, timeout: LONG_MS };
  await assert.rejects(peer.call({ name: "test_wait", arguments: { word } }, options));
  assert.ok(controller.signal.aborted, "it ended by itself");
  const deadline = Date.now() + LONG_MS;
  let known = "false";
  while (known === "false" && Date.now() < deadline) known = await peer.text("test_cancelled", { word });
  return { known };
}

/** A call that logs at four levels, while the client wants this one and worse. */
async function loggedAt(peer, level) {
  const word = `${peer.nonce}-${level}`;
  const params = { name: "test_log_levels", arguments: { word } };
  if (peer.modern) params._meta = { [LOG_LEVEL]: level };
  else await peer.client.setLoggingLevel(level);
  await peer.call(params);
  const own = () => peer.logs.filter(({ data }) => data.startsWith(`${word} at `));
  // The worst is logged last, and nothing overtakes.
  await until(`what is logged at ${level}`, () => own().some((log) => log.level === "error"));
  return own().map((log) => log.level);
}

async function logging(peer) {
  return { warning: await loggedAt(peer, "warning"), debug: await loggedAt(peer, "debug") };
}

const ALL_LISTS = { toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true };

/** Hears of a resource's updates, or of changed lists, until it is stopped. */
async function watch({ client, modern }, uri) {
  if (modern) {
    const filter = uri ? { resourceSubscriptions: [uri, "nobody://has/this"] } : ALL_LISTS;
    const subscription = await client.listen(filter);
    return { honored: subscription.honoredFilter, stop: () => subscription.close() };
  }
  if (!uri) return { stop: () => {} };
  await client.subscribeResource({ uri });
  return { stop: () => client.unsubscribeResource({ uri }) };
}

async function subscriptions(peer) {
  const { updates } = peer;
  const touch = (uri) => peer.text("test_touch", { uri });
  const first = await watch(peer, FIRST);
  await touch(FIRST);
  await until("an update", () => updates.includes(FIRST));
  await first.stop();
  const before = updates.splice(0);
  const second = await watch(peer, SECOND);
  // What still comes of the first would come before what comes of the second.
  await touch(FIRST);
  await touch(SECOND);
  await until("the other's update", () => updates.includes(SECOND));
  await second.stop();
  return { honored: first.honored?.resourceSubscriptions ?? [FIRST], before, after: updates.splice(0) };
}

/** Whether each list has what `name` was added to it. */
const LISTS = {
  tools: async (client, name) => (await client.listTools()).tools.some((one) => one.name === name),
  prompts: async (client, name) => (await client.listPrompts()).prompts.some((one) => one.name === name),
  resources: async (client, name) =>
    (await client.listResources()).resources.some(({ uri }) => uri === `test://added/${name}`),
};

/** Has a tool change all lists, and hears of each until all have changed. */
async function change(peer, tool, name, there) {
  const before = { ...peer.listsChanged };
  await peer.text(tool, { name });
  for (const [list, has] of Object.entries(LISTS)) {
    for (;;) {
      const heard = peer.listsChanged[list];
      if ((await has(peer.client, name)) === there) break;
      await until(`changed ${list}`, () => peer.listsChanged[list] > heard);
    }
    await until(`news of ${list}`, () => peer.listsChanged[list] > before[list]);
  }
}

async function listChanges(peer) {
  const name = `added_${peer.nonce}`;
  const watched = await watch(peer);
  await change(peer, "test_add", name, true);
  const { messages } = await peer.client.getPrompt({ name });
  const answers = [await peer.text(name), messages[0].content.text];
  await change(peer, "test_remove", name, false);
  await watched.stop();
  return { answers };
}

async function sampling(peer) {
  const before = peer.samplings.length;
  const answer = await peer.text("test_sampling", { prompt: peer.nonce });
  return { asked: peer.samplings.slice(before), answer };
}

async function form(peer) {
  const before = peer.elicitations.length;
  peer.actions = [{ action: "accept", content: { response: peer.nonce } }, { action: "decline" }];
  const ask = () => peer.text("test_elicitation", { message: `from ${peer.nonce}` });
  const answers = [await ask(), await ask()];
  return { asked: peer.elicitations.slice(before), answers };
}

async function url(peer) {
  const before = peer.elicitations.length;
  peer.actions = [{ action: "accept" }, { action: "decline" }];
  const ask = () => peer.text("test_elicitation_url", { url: `https://example.org/${peer.nonce}` });
  const answers = [await ask(), await ask()];
  return { asked: peer.elicitations.slice(before), answers };
}

async function roots(peer) {
  return { answer: await peer.text("test_input_required_result_list_roots") };
}

async function several(peer) {
  return { answer: await peer.text("test_input_required_result_multiple_inputs") };
}

async function rounds(peer) {
  const answers = {};
  for (const name of ROUNDS) answers[name] = await peer.text(`test_input_required_result_${name}`);
  return answers;
}
