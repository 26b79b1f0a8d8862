// Text into elements; never into HTML.

/** Show a text: paragraphs as they are, ``` fences as code. */
export function show(element, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  element.replaceChildren(...parts.map((part, i) => (i % 2 ? code(part) : paragraph(part))).filter(Boolean));
}

function paragraph(text) {
  const trimmed = text.replace(/^\n+|\n+$/g, "");
  return trimmed && node("p", trimmed);
}

function code(text) {
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.append(node("code", text.replace(/\n$/, "")));
  return pre;
}

export function node(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}
