// A real authorization server (oidc-provider, a certified OpenID provider) for the tests: dynamic registration, PKCE,
// resource indicators with JWT access tokens, refresh tokens. Whoever comes to its login page is logged in at once, as the
// account of the page's URL, and agrees to everything.
//
//   --port PORT --resource URI (may come several times) --scope SCOPE --ttl SECONDS
//
// Prints a line when it listens, and one for each grant: who asked for what, and of which kind it was.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { parseArgs } from "node:util";

import Provider, { errors } from "oidc-provider";

const { values } = parseArgs({
  options: {
    port: { type: "string" },
    resource: { type: "string", multiple: true },
    scope: { type: "string" },
    ttl: { type: "string" },
  },
});
const issuer = `http://127.0.0.1:${values.port}`;

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256" }] },
  cookies: { keys: ["only for tests"] },
  scopes: ["openid", "offline_access", ...values.scope.split(" ")],
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_context, interaction) => `/approve/${interaction.uid}` },
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  ttl: { AccessToken: Number(values.ttl), RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600 },
  features: {
    devInteractions: { enabled: false },
    registration: { enabled: true },
    resourceIndicators: {
      enabled: true,
      // Whoever names no resource gets a token for none of ours.
      defaultResource: () => undefined,
      useGrantedResource: () => true,
      getResourceServerInfo: (_context, resource) => {
        if (!values.resource.includes(resource)) throw new errors.InvalidTarget();
        return { scope: values.scope, audience: resource, accessTokenFormat: "jwt", accessTokenTTL: Number(values.ttl) };
      },
    },
  },
});

provider.on("grant.success", (context) => {
  const { grant_type: kind, resource } = context.oidc.params;
  console.log(`granted by ${kind} for ${resource}`);
});

async function approve(request, response) {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  const accountId = session?.accountId ?? "ann";
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(`openid offline_access ${values.scope}`);
  for (const resource of [params.resource].flat().filter(Boolean)) grant.addResourceScope(resource, values.scope);
  const consent = { grantId: await grant.save() };
  const result = prompt.name === "login" ? { login: { accountId }, consent } : { consent };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
}

const callback = provider.callback();
createServer((request, response) => {
  const answer = request.url.startsWith("/approve/") ? approve(request, response) : callback(request, response);
  Promise.resolve(answer).catch((error) => {
    console.error(error);
    response.statusCode = 500;
    response.end();
  });
}).listen(Number(values.port), "127.0.0.1", () => console.log(`listening as ${issuer}`));
