// What every TypeScript client does, feature by feature: a session-based one with server-everything, or with
// `--set pairs` one of any era with the fixtures (`pairs.mjs`). features.py does the same in Python. What the client itself saw is printed as JSON, and the test that started it judges:
//   {"client": …, "transport": …, "version": …, "cells": {FEATURE: {"saw": …} | {"error": …}}}
//
//   --set everything|pairs       --era legacy|auto|2026-07-28, where the client has a choice
//   --transport http|sse|stdio   --nonce TEXT   a word that no other client uses
//   --url URL --token TOKEN      for http and sse
//   --control HOST:PORT          of the fault proxy between here and the edge; without it no connection is cut
//   -- COMMAND ARGS…             for stdio

import assert from "node:assert/strict";
import { connect as connectTo } from "node:net";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { PAIRS } from "./pairs.mjs";
import { Peer, until } from "./peer.mjs";

const OPTIONS = ["transport", "nonce", "url", "token", "control", "set", "era"];
const CAPABILITIES = { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } };
const LONG_SECONDS = 60;

function settings() {
  const options = Object.fromEntries(OPTIONS.map((name) => [name, { type: "string" }]));
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  return { ...values, command: positionals };
}

/** What transports over HTTP are made with. */
export const http = ({ token }) => ({ requestInit: { headers: { Authorization: `Bearer ${token}` } } });

/** What a transport over stdio is made with. */
export function program({ command: [command, ...args] }) {
  return { command, args, env: process.env, stderr: "inherit" };
}

// make(capabilities, era): the SDK's client; transports: by name, each made from the settings; on(client, method,
// handler): its way to answer requests and hear notifications; call(client, params, options): its way to call a
// tool; version(client, transport): what was agreed on; more: features of
// this SDK alone, with each set.
export async function run({ name, make, transports, on, call, version, more = {} }) {
  const values = settings();
  const report = { client: name, transport: values.transport, cells: {} };
  const client = make(CAPABILITIES, values.era ?? "legacy");
  const peer = new Peer(values, client, call);
  peer.hear(on);
  try {
    const transport = transports[values.transport](values);
    await client.connect(transport);
    report.version = peer.version = version(client, transport);
    peer.listen(transport);
    const set = values.set ?? "everything";
    const cut = values.control ? { resumedCall, resumedListen } : {};
    const features = { ...SETS[set], ...more[set], ...cut };
    for (const [feature, play] of Object.entries(features)) {
      report.cells[feature] = await play(peer).then(
        (saw) => ({ saw }),
        (error) => ({ error: String(error?.stack ?? error) }),
      );
    }
    await client.close();
  } catch (error) {
    report.error = String(error?.stack ?? error);
  }
  console.log(JSON.stringify(report));
  process.exit(0);
}

const FEATURES = { tools, sampling, elicitation, roots, subscription, logging, progress, cancel, completion, ping };
const SETS = { everything: FEATURES, pairs: PAIRS };

async function tools({ client }) {
  const { tools } = await client.listTools();
  return { tools: tools.map(({ name }) => name) };
}

async function sampling(peer) {
  const answer = await peer.text("trigger-sampling-request", { prompt: peer.nonce, maxTokens: 17 });
  return { asked: peer.samplings.slice(), answer };
}

async function elicitation(peer) {
  peer.actions = [
    { action: "accept", content: { name: peer.nonce, check: true, integer: 7 } },
    { action: "decline" },
    { action: "accept" },
  ];
  const accepted = await peer.text("trigger-elicitation-request");
  const declined = await peer.text("trigger-elicitation-request");
  const url = `https://example.org/${peer.nonce}`;
  const visited = await peer.text("trigger-url-elicitation", { url, elicitationId: peer.nonce });
  return { asked: peer.elicitations.slice(), accepted, declined, visited };
}

async function roots(peer) {
  const before = await peer.text("get-roots-list");
  const logged = peer.rootsLogged(2).length;
  await peer.addRoot();
  await until("the server to take the new root", () => peer.rootsLogged(2).length > logged);
  return { asked: peer.rootsAsked, before, after: await peer.text("get-roots-list") };
}

const resource = (number) => `demo://resource/dynamic/text/${number}`;

async function subscription(peer) {
  const { client, updates } = peer;
  const toggle = () => peer.text("toggle-subscriber-updates");
  await client.subscribeResource({ uri: resource(1) });
  await toggle();
  await until("an update", () => updates.includes(resource(1)));
  await toggle();
  await client.unsubscribeResource({ uri: resource(1) });
  const first = updates.splice(0);
  // The server goes through its resources in the order of their first subscription, so with the second's update
  // one of the first would have come.
  await client.subscribeResource({ uri: resource(2) });
  await toggle();
  await until("the other's update", () => updates.includes(resource(2)));
  await toggle();
  await client.unsubscribeResource({ uri: resource(2) });
  return { first, then: updates.splice(0) };
}

/** The server logs each subscription at `info`. */
async function logging(peer) {
  const { client, logs } = peer;
  const of = (number) => logs.filter(({ data }) => String(data).includes(resource(number)));
  const subscribe = (number) => client.subscribeResource({ uri: resource(number) });
  await client.setLoggingLevel("info");
  await subscribe(11);
  await until("a log message", () => of(11).length > 0);
  await client.setLoggingLevel("error");
  await subscribe(12);
  await client.setLoggingLevel("debug");
  await subscribe(13);
  await until("a log message after the silence", () => of(13).length > 0);
  await peer.text("toggle-simulated-logging");
  const simulated = () => logs.filter(({ data }) => /-level message|level-message/.test(data));
  await until("a simulated log message", () => simulated().length > 0);
  await peer.text("toggle-simulated-logging");
  const counts = [11, 12, 13].map((number) => of(number).length);
  return { counts, levels: of(11).map(({ level }) => level), simulated: simulated() };
}

const long = (duration, steps) => ({ name: "trigger-long-running-operation", arguments: { duration, steps } });

async function progress(peer) {
  const heard = [];
  const result = await peer.call(long(0.5, 5), { onprogress: ({ progress }) => heard.push(progress) });
  return { seen: peer.progress.splice(0), heard, answer: result.content[0].text };
}

/** Cancels at the first progress, when the call is certainly under way. */
async function cancel(peer) {
  const controller = new AbortController();
  const began = Date.now();
  const onprogress = () => controller.abort("enough");
  const options = { onprogress, signal: controller.signal, timeout: LONG_SECONDS * 1000 };
  await assert.rejects(peer.call(long(LONG_SECONDS, LONG_SECONDS * 4), options));
  assert.ok(controller.signal.aborted, "it ended by itself");
  const seconds = (Date.now() - began) / 1000;
  return { seconds, next: await peer.text("echo", { message: peer.nonce }) };
}

async function completion({ client }) {
  const prompt = { type: "ref/prompt", name: "completable-prompt" };
  const template = { type: "ref/resource", uri: "demo://resource/dynamic/text/{resourceId}" };
  const values = async (params) => (await client.complete(params)).completion.values;
  return {
    departments: await values({ ref: prompt, argument: { name: "department", value: "S" } }),
    names: await values({
      ref: prompt,
      argument: { name: "name", value: "E" },
      context: { arguments: { department: "Sales" } },
    }),
    template: await values({ ref: template, argument: { name: "resourceId", value: "7" } }),
  };
}

async function ping({ client }) {
  return { answer: await client.ping() };
}

/** Arms the fault proxy; resolves with a promise that resolves when the connection is cut. */
async function arm({ control }, order) {
  const [host, port] = control.split(":");
  const socket = connectTo(Number(port), host);
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  socket.write(`${order}\n`);
  assert.equal((await lines.next()).value, "armed");
  const cut = lines.next().then(({ value }) => {
    assert.equal(value, "cut");
    socket.end();
  });
  return { cut };
}

/** A call whose stream breaks in the middle: three of its events are sent and never arrive. */
async function resumedCall(peer) {
  peer.progress = [];
  const heard = [];
  let armed;
  const onprogress = ({ progress }) => {
    heard.push(progress);
    if (progress === 3) armed = arm(peer, "POST 3");
  };
  const result = await peer.call(long(2, 20), { onprogress });
  await (await armed).cut;
  return { seen: peer.progress.splice(0), heard, answer: result.content[0].text };
}

/** The session's own stream breaks: three questions are sent on it and never arrive. */
async function resumedListen(peer) {
  const asked = peer.rootsAsked;
  peer.roots = [...peer.roots, { uri: `file:///${peer.nonce}/more`, name: "one more" }];
  const count = peer.roots.length;
  const { cut } = await arm(peer, "GET 3");
  for (let change = 0; change < 3; change += 1) await peer.client.sendRootsListChanged();
  await cut;
  await until("the questions to be answered", () => peer.rootsLogged(count).length >= 3);
  // The stream keeps its order: what comes after the next question would have come before it.
  await peer.addRoot();
  await until("the next question", () => peer.rootsLogged(count + 1).length > 0);
  return { asked: peer.rootsAsked - asked, logged: [count, count + 1].map((n) => peer.rootsLogged(n).length) };
}
