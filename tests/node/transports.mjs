// The SDK's transports, made as an application makes them, and a record of what they hand on.

export function defaultTransport(sdk, { api, headers, fetch, startIndex }) {
  const at = ({ api, id }) => ({ api: `${api}/${id}/stream?startIndex=${startIndex}` });
  return new sdk.DefaultChatTransport({
    api,
    headers,
    fetch,
    prepareReconnectToStreamRequest: startIndex === undefined ? undefined : at,
  });
}

// It sends none of the headers that it is given for a request, but those of these two functions.
export function workflowTransport(sdk, { api, headers, fetch, startIndex, onSent }) {
  return new sdk.WorkflowChatTransport({
    api,
    fetch,
    initialStartIndex: startIndex,
    onChatSendMessage: onSent,
    prepareSendMessagesRequest: ({ messages, body }) => ({ headers, body: { messages, ...body } }),
    prepareReconnectToStreamRequest: () => ({ headers }),
  });
}

// `onChunk` sees each chunk that the transport took for valid.
export function recorded(transport, onChunk) {
  const record = (stream) =>
    stream &&
    stream.pipeThrough(
      new TransformStream({
        transform(chunk, controller) {
          onChunk(structuredClone(chunk));
          controller.enqueue(chunk);
        },
      }),
    );
  return {
    sendMessages: async (options) => record(await transport.sendMessages(options)),
    reconnectToStream: async (options) => record(await transport.reconnectToStream(options)),
  };
}
