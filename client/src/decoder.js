// Bytes of an event stream to events, the same however the bytes are split.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
export const decoder = (emit) => {
  const utf8 = new TextDecoder();
  let buffer = "";
  let afterCr = false;
  let data = [];
  let event = "";
  let id = "";
  return (bytes) => {
    let text = utf8.decode(bytes, { stream: true });
    if (!text) return;
    if (afterCr && text[0] === "\n") text = text.slice(1);
    afterCr = text.endsWith("\r") || (afterCr && !text);
    const lines = (buffer + text).split(/\r\n|\n|\r/);
    buffer = lines.pop();
    for (const line of lines) {
      if (!line) {
        if (data.length) emit(event || "message", data.join("\n"), id);
        data = [];
        event = "";
        continue;
      }
      const [, name, value] = /^([^:]*)(?::? ?)([^]*)$/.exec(line);
      if (name === "data") data.push(value);
      else if (name === "event") event = value;
      else if (name === "id" && !value.includes("\0")) id = value;
    }
  };
};
