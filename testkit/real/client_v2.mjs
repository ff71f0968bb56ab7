// The official TypeScript client 2.x. --era legacy (its default), auto, or a modern version to pin, such as
// 2026-07-28. See scenario.mjs for what it does.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { headers, run, settings } from "./scenario.mjs";

const values = settings();
const era = values.era ?? "legacy";
const mode = ["legacy", "auto"].includes(era) ? era : { pin: era };
const client = new Client({ name: "real-client-v2", version: "1.0.0" }, { versionNegotiation: { mode } });
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});

await run(
  {
    client,
    connect: () => client.connect(transport),
    call: (params, options) => client.callTool(params, options),
    version: () => client.getNegotiatedProtocolVersion(),
  },
  values,
  "@modelcontextprotocol/client 2",
);
