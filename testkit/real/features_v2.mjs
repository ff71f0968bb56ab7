// The official TypeScript client 2.x: --era legacy, with a session, which is its default; auto; or a modern version to
// pin. See features.mjs for what it does.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import {
  createTaskSessionFromClient,
  resultFromTaskOutcome,
  toolDeclarationFromMcpTool,
} from "@modelcontextprotocol/ext-tasks/client";

import { http, program, run } from "./features.mjs";
import { tasksBy } from "./pairs.mjs";

const INFO = { name: "features-v2", version: "1.0.0" };

/** A tool of a fixture as a task: made while the tool waits, fetched when it was released. */
async function waiting(name, peer) {
  // The package asks for the state of a session's task again and again, and never for the question in its result.
  if (!peer.modern && name === "test_wait_and_ask") return null;
  const { client, nonce } = peer;
  const word = `${nonce}-${name}`;
  const { tools } = await client.listTools();
  const tool = tools.find((tool) => tool.name === name);
  if (!peer.modern && tool.execution?.taskSupport === undefined) return { offered: false };
  const onInputRequest = async ({ params }) => peer.elicited(params);
  const options = { endpointId: nonce, onInputRequest, ...(peer.modern && framing(peer)) };
  const session = createTaskSessionFromClient(client, options);
  const declaration = toolDeclarationFromMcpTool(tool);
  const execution = await session.callTool(name, { word }, { declaration, task: { preference: "require" } });
  const statuses = [];
  const onEvent = async ({ task }) => {
    if (task) statuses.push(task.status);
    if (statuses.length === 1) await peer.text("test_release", { word });
  };
  const { outcome, lastTask } = await execution.settle({ onEvent });
  await session.close();
  const answer = resultFromTaskOutcome(outcome).content[0].text;
  return { first: statuses[0], last: lastTask.status, answer };
}

/** What the SDK's client keeps to itself in the modern era. */
function framing(peer) {
  const clientCapabilities = { elicitation: { form: {} } };
  return {
    rawDispatch: async (request) => {
      const { result, error } = await peer.dispatch(request);
      return error ? { kind: "error", error } : { kind: "result", result };
    },
    v2RequestFraming: { protocolVersion: peer.version, clientInfo: INFO, clientCapabilities },
  };
}

await run({
  name: "@modelcontextprotocol/client 2",
  make: (capabilities, era) => {
    const mode = ["legacy", "auto"].includes(era) ? era : { pin: era };
    return new Client(INFO, { capabilities, versionNegotiation: { mode } });
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
  more: { pairs: tasksBy(waiting) },
});
