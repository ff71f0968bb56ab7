// The official TypeScript SDK 1.x, asked by servers. See asked.mjs for what it answers.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

import { CAPABILITIES, elicited, headers, roots, run, sampled, settings } from "./asked.mjs";

const values = settings();
const client = new Client({ name: "asked-v1", version: "1.0.0" }, { capabilities: CAPABILITIES });
client.setRequestHandler(types.ElicitRequestSchema, elicited);
client.setRequestHandler(types.CreateMessageRequestSchema, sampled);
client.setRequestHandler(types.ListRootsRequestSchema, roots);
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});

await run({
  client,
  connect: () => client.connect(transport),
  version: () => transport.protocolVersion,
});
