// A TypeScript client with everything that it was asked and told, and what it answers; peer.py is the same in Python.

import assert from "node:assert/strict";

const GUARD_MS = 60_000;
const POLL_MS = 10;
const MODERN = "2026-07-28";
/** What is put into a form, unless a feature says what to do. */
const FIELDS = { name: "Ada", color: "green", ok: true, context: "the tests" };

/** A client with everything that it was asked and told. */
export class Peer {
  constructor({ nonce, control }, client, call) {
    Object.assign(this, { nonce, control, client, version: undefined });
    this.call = (params, options) => call(client, params, options);
    this.samplings = [];
    this.elicitations = [];
    this.rootsAsked = 0;
    this.roots = [{ uri: `file:///${nonce}/1`, name: "first" }];
    this.logs = [];
    this.updates = [];
    this.listsChanged = { tools: 0, prompts: 0, resources: 0 };
    this.raw = [];
    this.dispatched = new Map();
    this.actions = [];
    this.progress = [];
  }

  hear(on) {
    on(this.client, "sampling/createMessage", (params) => {
      this.samplings.push(params);
      const text = `${this.nonce} samples`;
      return { model: "a-model", role: "assistant", content: { type: "text", text } };
    });
    on(this.client, "elicitation/create", (params) => this.elicited(params));
    on(this.client, "roots/list", () => {
      this.rootsAsked += 1;
      return { roots: this.roots };
    });
    on(this.client, "notifications/message", (params) => void this.logs.push(params));
    on(this.client, "notifications/resources/updated", ({ uri }) => void this.updates.push(uri));
    for (const list of Object.keys(this.listsChanged)) {
      on(this.client, `notifications/${list}/list_changed`, () => void (this.listsChanged[list] += 1));
    }
  }

  elicited(params) {
    this.elicitations.push(params);
    return this.actions.shift() ?? filled(params);
  }

  get modern() {
    return this.version === MODERN;
  }

  /**
   * Notes each progress as it arrives: this SDK drops one that comes in one read with the answer. And each answer, for
   * what the SDK has no words for.
   */
  listen(transport) {
    this.transport = transport;
    const own = transport.onmessage;
    transport.onmessage = (message, ...more) => {
      if (message.method === "notifications/progress") this.progress.push(message.params.progress);
      if (message.method === undefined) this.raw.push(message);
      if (this.dispatched.has(message.id)) this.dispatched.get(message.id)(message);
      else own(message, ...more);
    };
  }

  /** The answer to a request that goes round the SDK. */
  dispatch(request) {
    const id = `raw-${this.dispatched.size}`;
    return new Promise((resolve, reject) => {
      this.dispatched.set(id, resolve);
      this.transport.send({ jsonrpc: "2.0", id, ...request }).catch(reject);
    });
  }

  async text(name, args = {}, options = undefined) {
    const result = await this.call({ name, arguments: args }, options);
    assert.ok(!result.isError, JSON.stringify(result));
    return result.content.map((block) => block.text ?? "").join("\n");
  }

  async addRoot() {
    const number = this.roots.length + 1;
    this.roots = [...this.roots, { uri: `file:///${this.nonce}/${number}`, name: `root ${number}` }];
    await this.client.sendRootsListChanged();
  }

  rootsLogged(count) {
    return this.logs.filter(({ data }) => data === `Roots updated: ${count} root(s) received from client`);
  }
}

function filled({ requestedSchema }) {
  const fields = Object.keys(requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(fields.map((field) => [field, FIELDS[field]])) };
}

/** Waits for a condition; only a failing run waits to the end. */
export async function until(what, condition) {
  const deadline = Date.now() + GUARD_MS;
  while (!condition()) {
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}
