// The official TypeScript client 2.x as it opens by default, with a session. See features.mjs for what it does.

import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

import { http, program, run } from "./features.mjs";

await run({
  name: "@modelcontextprotocol/client 2",
  make: (capabilities) => new Client({ name: "features-v2", version: "1.0.0" }, { capabilities }),
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
});
