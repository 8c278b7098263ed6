// Text of an event stream to events: the same however it is split. `emit(event, data, id, retry)`.
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
export const decoder = (emit) => {
  let rest = "";
  let cr; // the text before ended with CR, so that an LF now belongs to it
  let fields = { id: "" };
  let data = [];
  return (text) => {
    if (!text) return;
    // Only what is new is looked through: a long line comes in many pieces.
    const lines = (cr ? text.replace(/^\n/, "") : text).split(/\r\n?|\n/);
    lines[0] = rest + lines[0];
    cr = text.endsWith("\r");
    rest = lines.pop();
    for (const line of lines) {
      const [, name, value] = /([^:]*):? ?([^]*)/.exec(line);
      if (!line) {
        if (data[0] !== undefined)
          emit(fields.event || "message", data.join("\n"), fields.id, fields.retry && +fields.retry);
        fields = { id: fields.id };
        data = [];
      } else if (name === "data") data.push(value);
      // an id with a NUL and a retry that is no number do not count
      else if (!/^(id[^]*\0|retry(?!: ?\d{1,15}$))/.test(line)) fields[name] = value;
    }
  };
};
