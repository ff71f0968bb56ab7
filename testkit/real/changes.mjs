// What TypeScript clients hear of changes, whatever their version: updates of resources of three servers, and changed
// lists. The exit code is 0 only if all of it came, and nothing after it was given up. changes.py does the same in Python.
//
//   --url URL --token TOKEN --lists FILE,FILE    the files that the tools of `changing.mjs` 1 and 2 are made of

import assert from "node:assert/strict";
import { appendFileSync } from "node:fs";

// server-everything (legacy), changing.mjs 1 (legacy) and 2 (modern)
export const URIS = ["demo://resource/dynamic/text/1", "note://v1/1", "note://v2/1"];
const SECONDS = 60;

/** What was heard, in order; `next(what)` waits for it and forgets what came before. */
export class Heard {
  #events = [];
  #wake = () => {};

  add(event) {
    this.#events.push(event);
    this.#wake();
  }

  async next(what) {
    const until = Date.now() + SECONDS * 1000;
    for (;;) {
      const at = this.#events.indexOf(what);
      if (at >= 0) return void this.#events.splice(0, at + 1);
      assert.ok(Date.now() < until, `${what} was not heard, but ${this.#events}`);
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 1000);
      });
    }
  }

  has(what) {
    return this.#events.includes(what);
  }
}

// subscribe(): hears of URIS and changed tools; give_up(): of nothing any more.
export async function run({ client, connect, call, subscribe, giveUp, version }, heard, values) {
  const report = { era: values.era ?? "default" };
  try {
    await connect();
    report.protocolVersion = version();
    await subscribe();
    await call({ name: "toggle-subscriber-updates", arguments: {} });
    await heard.next(URIS[0]);
    // The SDK of the modern one knows nothing of parts.
    for (const [n, uri] of [[1, URIS[1]], [2, URIS[2]], [1, `${URIS[1]}/part`], [2, URIS[2]]]) {
      await call({ name: `touch_v${n}`, arguments: { uri } });
      await heard.next(uri);
    }
    for (const [at, file] of values.lists.split(",").entries()) {
      const name = `added-${at}-${Date.now()}`;
      appendFileSync(file, `${name}\n`);
      do {
        await heard.next("tools");
      } while (!(await client.listTools()).tools.some((tool) => tool.name === name));
    }
    await giveUp();
    for (const n of [1, 2]) {
      await call({ name: `touch_v${n}`, arguments: { uri: URIS[n] } });
      assert.ok(!heard.has(URIS[n]), "heard of what was given up");
    }
    await client.close();
  } catch (error) {
    report.error = String(error?.stack ?? error);
  }
  console.log(JSON.stringify(report));
  process.exit(report.error ? 1 : 0);
}
