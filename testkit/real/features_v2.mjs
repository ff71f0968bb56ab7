// The official TypeScript client 2.x: --era legacy, with a session, which is its default; auto; or a modern version to
// pin. See features.mjs for what it does.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

import { http, program, run } from "./features.mjs";

const TASKS = "io.modelcontextprotocol/tasks";
const ANYTHING = { "~standard": { version: 1, vendor: "tests", validate: (value) => ({ value }) } };

/** This SDK has no tasks of any revision. What it sends is right, but an answer of another type is an error to it. */
async function tasks(peer) {
  if (!peer.modern) return null;
  const word = `${peer.nonce}-task`;
  const capabilities = { extensions: { [TASKS]: {} } };
  const _meta = { "io.modelcontextprotocol/clientCapabilities": capabilities };
  await peer.call({ name: "test_wait", arguments: { word }, _meta }).catch(() => {});
  const created = peer.raw.map(({ result }) => result).find((result) => result?.resultType === "task");
  if (!created) throw new Error(`no task: ${JSON.stringify(peer.raw.at(-1))}`);
  const { taskId } = created;
  const get = () => peer.client.request({ method: "tasks/get", params: { taskId, _meta } }, ANYTHING);
  const before = await get();
  await peer.text("test_release", { word });
  let task = before;
  while (task.status === "working") task = await get();
  return { created: created.status, before: before.status, after: task.status, answer: task.result?.content[0].text };
}

await run({
  name: "@modelcontextprotocol/client 2",
  make: (capabilities, era) => {
    const mode = ["legacy", "auto"].includes(era) ? era : { pin: era };
    return new Client({ name: "features-v2", version: "1.0.0" }, { capabilities, versionNegotiation: { mode } });
  },
  transports: {
    http: (values) => new StreamableHTTPClientTransport(new URL(values.url), http(values)),
    sse: (values) => new SSEClientTransport(new URL(values.url), http(values)),
    stdio: (values) => new StdioClientTransport(program(values)),
  },
  on: (client, method, handler) => {
    const add = method.startsWith("notifications/") ? "setNotificationHandler" : "setRequestHandler";
    client[add](method, ({ params }) => handler(params));
  },
  call: (client, params, options) => client.callTool(params, options),
  version: (client) => client.getNegotiatedProtocolVersion(),
  more: { pairs: { tasks } },
});
