// A fetch that notes every request, and can lose its connection once, in the middle of a frame.

export class ConnectionLost extends TypeError {
  constructor() {
    super("terminated");
  }
}

const FRAME_END = "\n\n";

export class Connection {
  requests = [];
  cuts = 0;
  #ready;

  // `taken(count)` is when the client has so many chunks in hand: what it was only sent, it loses.
  constructor({ signal, cutAfter, taken, network = globalThis.fetch }) {
    this.signal = signal;
    this.cutAfter = cutAfter;
    this.taken = taken;
    this.network = network;
    this.opened = new Promise((resolve) => {
      this.#ready = resolve;
    });
  }

  fetch = async (url, init = {}) => {
    const method = init.method ?? "GET";
    const signals = [this.signal, ...(init.signal ? [init.signal] : [])];
    const response = await this.network(url, { ...init, signal: AbortSignal.any(signals) });
    const { pathname, search } = new URL(url);
    this.requests.push([method, pathname + search, response.status]);
    if (method !== "GET") return response;
    this.#ready();
    if (this.cutAfter === undefined || response.status !== 200) return response;
    const count = this.cutAfter;
    this.cutAfter = undefined;
    return new Response(this.#cut(response.body, count), response);
  };

  // `count` whole frames and a part of the next one, then nothing more.
  #cut(body, count) {
    const source = body.pipeThrough(new TextDecoderStream()).getReader();
    const lose = async () => {
      await this.taken(count);
      this.cuts += 1;
      await source.cancel();
    };
    let left = count;
    let rest = "";
    const stream = new ReadableStream({
      async pull(controller) {
        const { done, value } = await source.read();
        if (done) return controller.close();
        rest += value;
        for (let end; (end = rest.indexOf(FRAME_END)) >= 0; rest = rest.slice(end + 2)) {
          const frame = rest.slice(0, end + 2);
          if (!frame.startsWith(":") && left-- === 0) {
            controller.enqueue(frame.slice(0, frame.length / 2));
            await lose();
            return controller.error(new ConnectionLost());
          }
          controller.enqueue(frame);
        }
      },
      cancel: (reason) => source.cancel(reason),
    });
    return stream.pipeThrough(new TextEncoderStream());
  }
}
