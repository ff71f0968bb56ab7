// The official TypeScript SDK 1.x with its own authorization. See oauth_client.mjs.

import { UnauthorizedError } from "@modelcontextprotocol/sdk/client/auth.js";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

import { run, settings } from "./oauth_client.mjs";

const values = settings();
const Transport = values.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;

await run({
  client: () => new Client({ name: "oauth-v1", version: "1.0.0" }),
  transport: (authProvider) => new Transport(new URL(values.url), { authProvider }),
  finish: (transport, params) => transport.finishAuth(params.get("code")),
  Unauthorized: UnauthorizedError,
});
