// The official TypeScript SDK 1.x, legacy revisions only: subscribes to resources of legacy and modern servers. See
// changes.mjs for what it does.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

import { Heard, URIS, run } from "./changes.mjs";
import { headers, settings } from "./scenario.mjs";

const values = settings();
const heard = new Heard();
const client = new Client({ name: "changes-v1", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(values.url), {
  requestInit: { headers: headers(values) },
});
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) => heard.add(params.uri));
client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => heard.add("tools"));

await run(
  {
    client,
    connect: () => client.connect(transport),
    call: (params) => client.callTool(params),
    subscribe: () => Promise.all(URIS.map((uri) => client.subscribeResource({ uri }))),
    giveUp: () => Promise.all(URIS.map((uri) => client.unsubscribeResource({ uri }))),
    version: () => transport.protocolVersion,
  },
  heard,
  values,
);
