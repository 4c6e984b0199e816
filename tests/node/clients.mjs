// usage: node clients.mjs VERSION BASE_URL, the API key in RUNLEDGER_API_KEY.
// One JSON request a line on standard input, one JSON answer a line on standard output:
//
// {op: "send", watcher, text, model} → {runId, chatId, sessionId}
// {op: "watch", watchers} → {} when each is connected; `how` is "chat", "read" or "drain"
// {op: "sees", type} → {} when each watcher got a chunk of this type
// {op: "results"} → {results, complaints} when each watcher has ended; then they are forgotten
// {op: "rebuild", stream} → a result: a chat is told a whole stream, no server is asked
// {op: "check", messages} → {messages: what the SDK makes of stored messages for a model}
//
// `complaints` is what the clients printed, but for the connections that were cut on purpose.
// Any other error ends this process with a stack on standard error.

import { createInterface } from "node:readline";
import { format } from "node:util";

import { ConnectionLost } from "./connection.mjs";
import { Watcher } from "./watcher.mjs";

const [version, baseUrl] = process.argv.slice(2);
const sdk = await import(`./${version}/client.mjs`);
const headers = { "x-api-key": process.env.RUNLEDGER_API_KEY };

let watchers = [];
let complaints = [];

console.error = console.warn = (...said) => {
  if (!said.some((word) => word instanceof ConnectionLost)) complaints.push(format(...said));
};

function newWatcher(asked, onSent) {
  const watcher = new Watcher(sdk, { ...asked, api: baseUrl + asked.api }, { headers, onSent });
  watchers.push(watcher);
  return watcher;
}

const ops = {
  async send({ watcher, text, model }) {
    let sender;
    const accepted = new Promise((resolve) => {
      const onSent = async (response) => resolve(await response.clone().json());
      sender = newWatcher(watcher, onSent).send(text, { model });
    });
    return Promise.race([accepted, sender.done.then(({ error }) => ({ error }))]);
  },

  async watch({ watchers: asked }) {
    const started = asked.map(({ how, ...rest }) => newWatcher(rest)[how]());
    await Promise.all(started.map((watcher) => watcher.connected()));
    return {};
  },

  async sees({ type }) {
    await Promise.all(watchers.map((watcher) => watcher.sees(type)));
    return {};
  },

  async results() {
    const results = await Promise.all(watchers.map((watcher) => watcher.result()));
    const answer = { results, complaints };
    [watchers, complaints] = [[], []];
    return answer;
  },

  async rebuild({ stream }) {
    const asked = { name: "rebuilds", transport: "default", api: baseUrl, id: "any" };
    const network = async () => new Response(stream);
    return new Watcher(sdk, asked, { headers, network }).chat().result();
  },

  async check({ messages }) {
    const valid = await sdk.validateUIMessages({ messages });
    return { messages: await sdk.convertToModelMessages(valid) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...asked } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await ops[op](asked))}\n`);
}
