// One client of one run: a transport, what reads it, and what it saw.

import { newChat } from "./chat.mjs";
import { Connection } from "./connection.mjs";
import { defaultTransport, recorded, workflowTransport } from "./transports.mjs";

const WATCH_MS_MAX = 40_000;
const TRANSPORTS = { default: defaultTransport, workflow: workflowTransport };

export class Watcher {
  chunks = [];
  done = undefined;
  #waiting = [];

  // asked: {name, transport: "default" | "workflow", api: a URL, id?: what the transport asks for,
  //   startIndex?, cutAfter?: whole frames before the connection is lost, messages?: those of the
  //   chat before}; onSent gets the answer to the POST, network stands in for fetch
  constructor(sdk, asked, { headers, onSent, network }) {
    const { transport, api, startIndex, cutAfter } = asked;
    this.sdk = sdk;
    this.asked = asked;
    this.signal = AbortSignal.timeout(WATCH_MS_MAX);
    const taken = (count) => this.#until(() => this.chunks.length >= count);
    this.connection = new Connection({ signal: this.signal, cutAfter, taken, network });
    const options = { api, headers, startIndex, onSent, fetch: this.connection.fetch };
    this.transport = recorded(TRANSPORTS[transport](sdk, options), (chunk) => this.#take(chunk));
  }

  #take(chunk) {
    this.chunks.push(chunk);
    for (const { condition, resolve } of this.#waiting) if (condition()) resolve();
  }

  async #until(condition) {
    if (condition()) return;
    await new Promise((resolve) => this.#waiting.push({ condition, resolve }));
  }

  // Until its stream was answered for the first time, or it has ended.
  connected() {
    return Promise.race([this.connection.opened, this.done]);
  }

  // Until a chunk of this type has come, or it has ended.
  sees(type) {
    const seen = this.#until(() => this.chunks.some((chunk) => chunk.type === type));
    return Promise.race([seen, this.done]);
  }

  send(text, body) {
    return this.#chat((chat) => chat.sendMessage({ text }, { body }));
  }

  // As `useChat` does with `resume: true`.
  chat() {
    return this.#chat((chat) => chat.resumeStream());
  }

  #chat(act) {
    const { id, messages } = this.asked;
    const chat = newChat(this.sdk, { id, messages, transport: this.transport });
    this.done = act(chat).then(() => ({
      messages: chat.messages,
      status: chat.status,
      error: chat.error?.message,
    }));
    return this;
  }

  // As an application does that shows one message without a chat.
  read() {
    this.done = this.#read();
    return this;
  }

  async #read() {
    const errors = [];
    const stream = await this.#reconnect();
    const messages = this.sdk.readUIMessageStream({
      stream,
      onError: (error) => errors.push(error.message),
    });
    let message;
    for await (message of messages);
    return { messages: [...this.asked.messages, message], error: errors.shift(), errors };
  }

  // The transport alone, to its very end.
  drain() {
    this.done = this.#drain().catch((error) => ({ error: error.message }));
    return this;
  }

  async #drain() {
    for await (const _ of await this.#reconnect());
    return {};
  }

  #reconnect() {
    return this.transport.reconnectToStream({ chatId: this.asked.id, abortSignal: this.signal });
  }

  async result() {
    const end = await this.done;
    const { requests, cuts } = this.connection;
    return { name: this.asked.name, ...end, chunks: this.chunks, requests, cuts };
  }
}
