// Loaded before the conformance suite (`node --import`), which cannot send a token by itself: every request gets
// the one in MCP_TOKEN unless it has its own. The suite sends by fetch, by undici and by node:http.

import http from "node:http";
import { syncBuiltinESMExports } from "node:module";

import { getGlobalDispatcher, setGlobalDispatcher } from "undici";

const authorization = `Bearer ${process.env.MCP_TOKEN}`;

/** The headers as pairs, in whichever of its three shapes undici hands them on. */
function pairs(headers) {
  if (!headers) return [];
  if (!Array.isArray(headers)) return Symbol.iterator in headers ? [...headers] : Object.entries(headers);
  return headers.flatMap((name, n) => (n % 2 === 0 ? [[name, headers[n + 1]]] : []));
}

// Node's own fetch takes the same dispatcher.
setGlobalDispatcher(
  getGlobalDispatcher().compose((dispatch) => (options, handler) => {
    const headers = pairs(options.headers);
    const has = headers.some(([name]) => String(name).toLowerCase() === "authorization");
    if (!has) headers.push(["authorization", authorization]);
    return dispatch({ ...options, headers: headers.flat() }, handler);
  }),
);

const { request } = http;
http.request = (...args) => {
  const sent = request(...args);
  if (!sent.hasHeader("authorization")) sent.setHeader("authorization", authorization);
  return sent;
};
syncBuiltinESMExports();
