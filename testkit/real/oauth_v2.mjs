// The official TypeScript client 2.x with its own authorization. See oauth_client.mjs.

import {
  Client,
  SSEClientTransport,
  StreamableHTTPClientTransport,
  UnauthorizedError,
} from "@modelcontextprotocol/client";

import { run, settings } from "./oauth_client.mjs";

const values = settings();
const Transport = values.transport === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
const era = values.era ?? "legacy";
const mode = ["legacy", "auto"].includes(era) ? era : { pin: era };

await run({
  client: () => new Client({ name: "oauth-v2", version: "1.0.0" }, { versionNegotiation: { mode } }),
  transport: (authProvider) => new Transport(new URL(values.url), { authProvider }),
  finish: (transport, params) => transport.finishAuth(params),
  Unauthorized: UnauthorizedError,
});
