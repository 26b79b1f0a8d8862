// One answer of the server, streamed.

/** The API says no, or the stream broke off. */
export class Refused extends Error {}

/**
 * Ask, and give what each event brings: {text, reasoning, tokens, finish}.
 * `tokens` is how many there are so far, by the server's count where it sends one.
 */
export async function* answer(body, key, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) },
    body: JSON.stringify({
      ...body,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    }),
  });
  if (!response.ok) throw new Refused(await refusal(response));
  let tokens = 0;
  for await (const event of events(response.body)) {
    if (event.error) throw new Refused(message(event.error));
    const choice = event.choices?.[0];
    const text = choice?.delta?.content ?? "";
    const reasoning = choice?.delta?.reasoning ?? choice?.delta?.reasoning_content ?? "";
    tokens = event.usage?.completion_tokens ?? tokens + Boolean(text || reasoning);
    yield { text, reasoning, tokens, finish: choice?.finish_reason ?? null };
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function refusal(response) {
  const text = await response.text();
  let said = text.slice(0, 500);
  try {
    said = message(JSON.parse(text).error ?? said);
  } catch { /* no JSON: said as it is */ }
  const hint = response.status === 401 ? "; the API key goes into the settings" : "";
  return `${response.status}: ${said || response.statusText}${hint}`;
}

function message(error) {
  return typeof error === "string" ? error : error.message ?? JSON.stringify(error);
}
