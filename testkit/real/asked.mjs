// What every TypeScript client answers when a server asks it something, and the calls that make the fixture ask:
// `asked_v1.mjs` and `asked_v2.mjs` bring the SDK. asked.py does the same in Python. The report has the words that
// each call ended in.
//
//   --url URL [--token TOKEN] [--era ERA]

import { parseArgs } from "node:util";

export function settings() {
  const options = Object.fromEntries(["url", "token", "era"].map((name) => [name, { type: "string" }]));
  return parseArgs({ options }).values;
}

export function headers({ token }) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export const CAPABILITIES = { elicitation: {}, sampling: {}, roots: {} };

const FIELDS = { name: "Ada", color: "green", ok: true, context: "the tests" };

/** A form filled in, as far as it has the fields that the fixture asks for. */
export function elicited({ params }) {
  const fields = Object.keys(params.requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(fields.map((field) => [field, FIELDS[field]])) };
}

export function sampled() {
  return { role: "assistant", model: "a-model", content: { type: "text", text: "Paris" } };
}

export function roots() {
  return { roots: [{ uri: "file:///a-root", name: "a root" }] };
}

const TOOLS = ["elicitation", "sampling", "list_roots", "request_state", "multiple_inputs", "multi_round"];

/** Of a server that has such a tool: what only the modern era may call structured. */
async function structured(client) {
  const { tools } = await client.listTools();
  if (!tools.some(({ name }) => name === "test_structured_array")) return null;
  const { content, structuredContent } = await client.callTool({ name: "test_structured_array" });
  return structuredContent ?? JSON.parse(content[0].text);
}

export async function run({ client, connect, version }) {
  const report = { calls: {} };
  try {
    await connect();
    report.protocolVersion = version();
    for (const tool of TOOLS) {
      const result = await client.callTool({ name: `test_input_required_result_${tool}`, arguments: {} });
      report.calls[tool] = result.content.map(({ text }) => text).join("\n");
    }
    report.calls.structured = await structured(client);
    const prompt = await client.getPrompt({ name: "test_input_required_result_prompt" });
    report.calls.prompt = prompt.messages[0].content.text;
    await client.close();
  } catch (error) {
    report.error = String(error?.stack ?? error);
  }
  console.log(JSON.stringify(report));
  process.exit(report.error ? 1 : 0);
}
