// What every TypeScript client does to the endpoint, whatever its version: connect, list all, call a tool of
// each server, read, get, complete, follow progress, cancel. The report says what was seen; the exit code is 0
// only if all of it went well. client.py does the same in Python.
//
//   --url URL --servers everything,filesystem,memory,time,fetch   [--token TOKEN] [--ca FILE] [--era ERA]
//   [--file FILE]   a text file that the filesystem server may read
//   [--page URL]    a page that the fetch server may fetch

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

const OPTIONS = ["url", "servers", "token", "ca", "era", "file", "page", "lists"];
const LONG_SECONDS = 60;

export function settings() {
  const options = Object.fromEntries(OPTIONS.map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options });
  if (values.ca && process.env.NODE_EXTRA_CA_CERTS !== values.ca) {
    // Node reads its trust anchors at start only.
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: values.ca };
    const { status } = spawnSync(process.execPath, process.argv.slice(1), { env, stdio: "inherit" });
    process.exit(status ?? 1);
  }
  return values;
}

export function headers({ token }) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// client: the SDK's; call(params, options): its way to call a tool; report: filled as things are seen.
export async function run({ client, call, connect, version }, values, name) {
  const report = { client: name, era: values.era ?? "default", calls: {} };
  const began = Date.now();
  try {
    await connect();
    report.protocolVersion = version();
    report.server = client.getServerVersion();
    await lists(client, report);
    const servers = (values.servers ?? "").split(",").filter(Boolean);
    for (const server of servers) {
      report.calls[server] = await CALLS[server](call, values);
    }
    if (servers.includes("everything")) {
      await everything(client, call, report);
    }
    await client.close();
  } catch (error) {
    report.error = String(error?.stack ?? error);
  }
  report.seconds = (Date.now() - began) / 1000;
  console.log(JSON.stringify(report));
  process.exit(report.error ? 1 : 0);
}

async function lists(client, report) {
  const all = async (list, member) => {
    const items = [];
    let cursor;
    do {
      const page = await client[list](cursor === undefined ? undefined : { cursor });
      items.push(...page[member]);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    return items;
  };
  report.tools = (await all("listTools", "tools")).map((tool) => tool.name);
  report.prompts = (await all("listPrompts", "prompts")).map((prompt) => prompt.name);
  report.resources = (await all("listResources", "resources")).map((resource) => resource.uri);
  report.templates = (await all("listResourceTemplates", "resourceTemplates")).map((one) => one.uriTemplate);
}

// One call for each server; the answer must show that it came from there.
const CALLS = {
  everything: (call) => expectText(call, "echo", { message: "grüße" }, "Echo: grüße"),
  filesystem: (call, { file }) => expectText(call, "read_text_file", { path: file }, "a file for the tests"),
  memory: async (call) => {
    const entity = { name: "edge", entityType: "program", observations: ["routes"] };
    await expectText(call, "create_entities", { entities: [entity] }, "");
    return expectText(call, "read_graph", {}, "routes");
  },
  time: (call) => expectText(call, "get_current_time", { timezone: "Europe/Berlin" }, "Europe/Berlin"),
  fetch: (call, { page }) => expectText(call, "fetch", { url: page }, "a page for the tests"),
};

async function expectText(call, name, args, expected) {
  const result = await call({ name, arguments: args });
  const text = result.content.map((block) => block.text ?? "").join("\n");
  assert.ok(!result.isError && text.includes(expected), `${name} answered ${JSON.stringify(result)}`);
  return text;
}

async function everything(client, call, report) {
  const read = async (uri) => (await client.readResource({ uri })).contents[0];
  const listed = report.resources.find((uri) => uri.startsWith("demo://"));
  const templated = await read("demo://resource/dynamic/text/7");
  report.read = { listed: (await read(listed)).uri, templated: templated.text };
  assert.equal(report.read.listed, listed);
  assert.match(report.read.templated, /^Resource 7: /);

  const prompt = await client.getPrompt({ name: "args-prompt", arguments: { city: "Ulm" } });
  report.prompt = prompt.messages[0].content.text;
  assert.match(report.prompt, /Ulm/);

  const ref = { type: "ref/prompt", name: "completable-prompt" };
  const completed = await client.complete({ ref, argument: { name: "department", value: "S" } });
  report.completion = completed.completion.values;
  assert.ok(report.completion.includes("Sales"), JSON.stringify(report.completion));

  report.progress = await progress(call);
  report.cancelledAfter = await cancel(call);
  // Nothing of the cancelled call is left in the way of the next one.
  await CALLS.everything(call);
}

const long = (duration, steps) => ({
  name: "trigger-long-running-operation",
  arguments: { duration, steps },
});

async function progress(call) {
  const seen = [];
  const result = await call(long(1, 5), { onprogress: (event) => seen.push(event.progress) });
  assert.match(result.content[0].text, /completed/);
  assert.ok(seen.length > 0, "no progress was reported");
  assert.deepEqual(seen, [...seen].sort((one, other) => one - other));
  return seen;
}

// Cancels at the first progress, when the call is certainly under way; returns the seconds until it ended.
async function cancel(call) {
  const controller = new AbortController();
  const began = Date.now();
  const onprogress = () => controller.abort("enough");
  const options = { onprogress, signal: controller.signal, timeout: LONG_SECONDS * 1000 };
  await assert.rejects(call(long(LONG_SECONDS, LONG_SECONDS * 4), options));
  const seconds = (Date.now() - began) / 1000;
  const ended = controller.signal.aborted && seconds < LONG_SECONDS / 2;
  assert.ok(ended, "the call did not end when it was cancelled");
  return seconds;
}
