// Bytes of an event stream to events: the same however the bytes are split. `emit(event, data, id, retry)`.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
export const decoder = (emit) => {
  const utf8 = new TextDecoder();
  let rest = "";
  let cr; // the text before ended with CR, so that an LF now belongs to it
  let data = [];
  let event;
  let id = "";
  let retry;
  return (bytes) => {
    const text = utf8.decode(bytes, { stream: true });
    if (!text) return;
    const lines = (rest + (cr ? text.replace(/^\n/, "") : text)).split(/\r\n?|\n/);
    cr = text.endsWith("\r");
    rest = lines.pop();
    for (const line of lines) {
      const [, name, value] = /([^:]*):? ?([^]*)/.exec(line);
      if (!line) {
        if (data[0] !== undefined) emit(event || "message", data.join("\n"), id, retry);
        data = [];
        event = retry = undefined;
      } else if (name === "data") data.push(value);
      else if (name === "event") event = value;
      else if (name === "id") id = value.includes("\0") ? id : value;
      else if (name === "retry" && /^\d{1,15}$/.test(value)) retry = +value;
    }
  };
};
