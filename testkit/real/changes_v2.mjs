// The official TypeScript client 2.x at 2026-07-28: listens to resources and lists of legacy and modern servers. See
// changes.mjs for what it does.

import assert from "node:assert/strict";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { Heard, URIS, run } from "./changes.mjs";
import { headers, settings } from "./scenario.mjs";

const values = settings();
const heard = new Heard();
const client = new Client(
  { name: "changes-v2", version: "1.0.0" },
  { versionNegotiation: { mode: { pin: "2026-07-28" } } },
);
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});
client.setNotificationHandler("notifications/resources/updated", ({ params }) => heard.add(params.uri));
client.setNotificationHandler("notifications/tools/list_changed", () => heard.add("tools"));
let subscription;

async function subscribe() {
  const wanted = [...URIS, "nobody://has/this"];
  subscription = await client.listen({ toolsListChanged: true, resourceSubscriptions: wanted });
  const { toolsListChanged, resourceSubscriptions } = subscription.honoredFilter;
  assert.deepEqual([toolsListChanged, [...resourceSubscriptions].sort()], [true, [...URIS].sort()]);
}

await run(
  {
    client,
    connect: () => client.connect(transport),
    call: (params) => client.callTool(params),
    subscribe,
    giveUp: () => subscription.close(),
    version: () => client.getNegotiatedProtocolVersion(),
  },
  heard,
  values,
);
