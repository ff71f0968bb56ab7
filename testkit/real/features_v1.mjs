// The official TypeScript SDK 1.x: every session-based revision, and tasks. See features.mjs for what it does.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

import { http, program, run } from "./features.mjs";
import { tasksBy } from "./pairs.mjs";

const SCHEMAS = {
  "sampling/createMessage": types.CreateMessageRequestSchema,
  "elicitation/create": types.ElicitRequestSchema,
  "roots/list": types.ListRootsRequestSchema,
  "notifications/message": types.LoggingMessageNotificationSchema,
  "notifications/resources/updated": types.ResourceUpdatedNotificationSchema,
  "notifications/tools/list_changed": types.ToolListChangedNotificationSchema,
  "notifications/prompts/list_changed": types.PromptListChangedNotificationSchema,
  "notifications/resources/list_changed": types.ResourceListChangedNotificationSchema,
};

/** Only one of the transports keeps what was agreed on. */
function told(transport) {
  const own = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (version) => {
    transport.told = version;
    own?.(version);
  };
  return transport;
}

/** A tool that runs as a task, to its end; the question of its middle comes with the task's result. */
async function task(peer) {
  peer.actions = [{ action: "accept", content: { interpretation: "technical" } }];
  const before = peer.elicitations.length;
  const params = { name: "simulate-research-query", arguments: { topic: peer.nonce, ambiguous: true } };
  const told = [];
  for await (const message of peer.client.experimental.tasks.callToolStream(params)) told.push(message);
  const statuses = told.flatMap(({ task }) => (task ? [task.status] : []));
  const created = told.find(({ type }) => type === "taskCreated")?.task.taskId;
  const known = (await peer.client.experimental.tasks.listTasks()).tasks.map(({ taskId }) => taskId);
  const last = told.at(-1);
  const answer = last.result?.content[0].text ?? String(last.error);
  return { created, known, statuses, asked: peer.elicitations.slice(before), answer };
}

/** A tool of a fixture as a task: made while the tool waits, fetched when it was released. */
async function waiting(tool, peer) {
  const { tools } = await peer.client.listTools();
  const support = tools.find(({ name }) => name === tool).execution?.taskSupport;
  if (support === undefined) return { offered: false };
  const word = `${peer.nonce}-${tool}`;
  const params = { name: tool, arguments: { word } };
  const statuses = [];
  let answer;
  for await (const message of peer.client.experimental.tasks.callToolStream(params)) {
    if (message.task) statuses.push(message.task.status);
    if (message.type === "taskCreated") await peer.text("test_release", { word });
    if (message.type === "error") throw message.error;
    answer = message.result?.content[0].text;
  }
  return { first: statuses[0], last: statuses.at(-1), answer };
}

await run({
  name: "@modelcontextprotocol/sdk 1",
  make: (capabilities) => new Client({ name: "features-v1", version: "1.0.0" }, { capabilities }),
  transports: {
    http: (values) => told(new StreamableHTTPClientTransport(new URL(values.url), http(values))),
    sse: (values) => told(new SSEClientTransport(new URL(values.url), http(values))),
    stdio: (values) => told(new StdioClientTransport(program(values))),
  },
  on: (client, method, handler) => {
    const add = method.startsWith("notifications/") ? "setNotificationHandler" : "setRequestHandler";
    client[add](SCHEMAS[method], ({ params }) => handler(params));
  },
  call: (client, params, options) => client.callTool(params, undefined, options),
  version: (_client, transport) => transport.told,
  more: { everything: { task }, pairs: tasksBy(waiting) },
});
