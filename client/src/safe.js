// What a patch may not set. The server refuses the same (patch.py); this is for one that does not.

// The URL parser drops tabs and line ends, and what is a control or a space in front.
export const badUrl = (url) => /^(?!https?:)[a-z][a-z\d+.-]*:/i.test(("" + url).replace(/[\0- ]/g, ""));

export const badAttribute = (name, value) =>
  /^(on|srcdoc$)/i.test(name) ||
  (/^((form)?action|background|by|cite|data|from|(xlink:)?href|(image)?src(set)?|manifest|ping|poster|to|values)$/i.test(name) &&
    // those that hold several URLs
    (/set|ping|values/i.test(name) ? value.split(/[\s,;]+/) : [value]).some(badUrl));
