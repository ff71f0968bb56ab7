// What a TypeScript client does at an endpoint that wants tokens of an authorization server, by the SDK's own means: it is
// refused, finds that server, registers, has its user agree, gets a token, calls a tool; then its token is refused, and it
// gets another one by its refresh token. The user is `agree`, who follows redirects as a browser would.
//
//   --url URL   the endpoint   --transport streaming | sse   --era ERA

import assert from "node:assert/strict";
import { parseArgs } from "node:util";

const REDIRECT = "http://127.0.0.1:9/callback";

export function settings() {
  return parseArgs({ options: { url: { type: "string" }, transport: { type: "string" }, era: { type: "string" } } }).values;
}

// Whatever the SDK wants to be kept, in memory.
export class Provider {
  redirectUrl = REDIRECT;
  clientMetadata = {
    client_name: "a client of the tests",
    redirect_uris: [REDIRECT],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: "none",
    application_type: "native",
  };
  saved = [];
  state = () => "a-state-of-the-tests";
  clientInformation = () => this.client;
  saveClientInformation = (client) => void (this.client = client);
  tokens = () => this.current;
  saveTokens = (tokens) => {
    this.saved.push(tokens.access_token);
    this.current = tokens;
  };
  discoveryState = () => this.discovered;
  saveDiscoveryState = (state) => void (this.discovered = state);
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  redirectToAuthorization = (url) => void (this.authorization = url);

  // As if the token had run out: the edge refuses it.
  spoil() {
    this.current = { ...this.current, access_token: `${this.current.access_token}AAAA` };
  }
}

// Follows the authorization server's redirects to the callback; what is said there.
async function agree(url) {
  const cookies = new Map();
  let next = new URL(url);
  for (let hops = 0; hops < 10; hops++) {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const response = await fetch(next, { redirect: "manual", headers: { cookie } });
    for (const line of response.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=");
      cookies.set(name, value);
    }
    assert.ok(response.headers.has("location"), `${next} answers ${response.status}: ${await response.text()}`);
    next = new URL(response.headers.get("location"), next);
    if (next.href.startsWith(REDIRECT)) return next.searchParams;
  }
  throw new Error("the redirects have no end");
}

// client(): a new client; transport(provider): a new transport; finish(transport, params): the code to the SDK.
export async function run({ client, transport, finish, Unauthorized }) {
  const provider = new Provider();
  const report = { refused: false };
  try {
    const first = transport(provider);
    await client().connect(first).then(
      () => assert.fail("it came in without a token"),
      (error) => {
        if (!(error instanceof Unauthorized)) throw error;
        report.refused = true;
      },
    );
    await finish(first, await agree(provider.authorization));
    const connected = client();
    await connected.connect(transport(provider));
    const call = async () => (await connected.callTool({ name: "t0", arguments: {} })).content[0].text;
    report.tools = (await connected.listTools()).tools.map((tool) => tool.name);
    report.before = await call();
    provider.spoil();
    report.after = await call();
    report.tokens = new Set(provider.saved).size;
    await connected.close();
  } catch (error) {
    report.error = String(error?.stack ?? error);
  }
  console.log(JSON.stringify(report));
  process.exit(report.error ? 1 : 0);
}
