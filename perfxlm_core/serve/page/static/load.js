// The server's load, from its Prometheus page.

const NAMES = {
  running: "vllm:num_requests_running",
  waiting: "vllm:num_requests_waiting",
  kv: "vllm:kv_cache_usage_perc",
  generated: "vllm:generation_tokens_total",
};

/** The sums of the metrics that the page shows; null if there are none. */
export async function load() {
  const response = await fetch("metrics");
  if (!response.ok) return null;
  const text = await response.text();
  return Object.fromEntries(Object.entries(NAMES).map(([key, name]) => [key, sum(text, name)]));
}

function sum(text, name) {
  const lines = text.split("\n").filter((line) => line.startsWith(name + "{") || line.startsWith(name + " "));
  return lines.length ? lines.reduce((total, line) => total + Number(line.split(" ").pop()), 0) : null;
}
