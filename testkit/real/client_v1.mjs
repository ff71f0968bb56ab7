// The official TypeScript SDK 1.x: legacy revisions only. See scenario.mjs for what it does.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

import { headers, run, settings } from "./scenario.mjs";

const values = settings();
const client = new Client({ name: "real-client-v1", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});

await run(
  {
    client,
    connect: () => client.connect(transport),
    call: (params, options) => client.callTool(params, undefined, options),
    version: () => transport.protocolVersion,
  },
  values,
  "@modelcontextprotocol/sdk 1",
);
