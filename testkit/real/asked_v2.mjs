// The official TypeScript client 2.x, asked by servers: --era legacy (its default), or a modern version to pin. See
// asked.mjs for what it answers.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { CAPABILITIES, elicited, headers, roots, run, sampled, settings } from "./asked.mjs";

const values = settings();
const era = values.era ?? "legacy";
const mode = era === "legacy" ? era : { pin: era };
const info = { name: "asked-v2", version: "1.0.0" };
const client = new Client(info, { capabilities: CAPABILITIES, versionNegotiation: { mode } });
client.setRequestHandler("elicitation/create", elicited);
client.setRequestHandler("sampling/createMessage", sampled);
client.setRequestHandler("roots/list", roots);
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});

await run({
  client,
  connect: () => client.connect(transport),
  version: () => client.getNegotiatedProtocolVersion(),
});
