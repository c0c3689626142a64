"""A headless Chromium that is spoken to through a pipe (the DevTools protocol): no driver, no further package."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
COMMAND_SECONDS = 60.0
# Chromium takes commands from file 3 and answers to file 4.
WITH_PIPES = """import os, sys
read, write = (os.dup(int(fd)) for fd in sys.argv[1:3])
high = [os.dup2(fd, 100 + index) for index, fd in enumerate((read, write))]
for fd, place in zip(high, (3, 4)):
    os.dup2(fd, place)
os.execv(sys.argv[3], sys.argv[3:])"""


def chromium() -> str | None:
    """Return the path of an installed Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """One tab. What it asked for and what it complained of is kept."""

    to: Any
    source: Any
    session: str = ""
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _count: int = 0
    _buffer: bytes = b""
    _loaded: bool = False

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Open a page at a size, and wait until it is loaded."""
        self.requests.clear()
        self.complaints.clear()
        self.resize(width, height)
        self._loaded = False
        self.call("Page.navigate", url=url)
        end = time.monotonic() + COMMAND_SECONDS
        while not self._loaded:
            assert time.monotonic() < end, f"{url} was not loaded in {COMMAND_SECONDS} s"
            self._take(self._next())

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page another size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression has as its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, timeout_seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        end = time.monotonic() + timeout_seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, (
                f"never true: {expression}; the page: {self.value('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result
            self._take(answer)

    def _take(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Page.loadEventFired":
            self._loaded = True

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self.source.fileno(), 1 << 16)
            assert more, "Chromium has ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start Chromium with a profile folder of its own, and hand out a tab; nothing but loopback has an address."""
    path = chromium()
    assert path is not None, "ask chromium() first"
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()
    command = [
        *(sys.executable, "-c", WITH_PIPES, str(command_read), str(answer_write), path),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(
        command, pass_fds=(command_read, answer_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(command_read)
    os.close(answer_write)
    with os.fdopen(command_write, "wb") as to, os.fdopen(answer_read, "rb", buffering=0) as source:
        try:
            page = Page(to, source)
            target = page.call("Target.createTarget", url="about:blank")["targetId"]
            page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            process.terminate()
            process.wait(20)
