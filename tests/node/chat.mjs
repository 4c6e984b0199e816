// What `useChat` is without React: the SDK's own chat over plain state.

class State {
  status = "ready";
  error = undefined;

  constructor(messages) {
    this.messages = messages;
  }

  pushMessage = (message) => {
    this.messages = [...this.messages, message];
  };

  popMessage = () => {
    this.messages = this.messages.slice(0, -1);
  };

  replaceMessage = (index, message) => {
    this.messages = this.messages.with(index, structuredClone(message));
  };

  snapshot = (value) => structuredClone(value);
}

export function newChat(sdk, { id, transport, messages = [] }) {
  return new sdk.AbstractChat({ id, transport, state: new State(messages) });
}
