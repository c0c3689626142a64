"""A small server that speaks the part of MLflow's REST that fttune uses, and misbehaves on a seeded schedule.

It keeps every point as it was sent: one that is sent twice is there twice. On loopback, in a thread.
"""

import json
import random
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

FAULTS = ("refuse", "hang", "error", "half", "cut")
MAX_HANGS = 3  # each takes as long as the client waits
API, FILES = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/artifacts"
Body = dict[str, Any]


@dataclass
class Schedule:
    """What happens to the next request: one of `FAULTS` with a probability, by a seed; None is a plain answer.

    Faults come in rounds of all of them, so that few requests meet each kind. Each request is kept waiting for
    `delay_seconds` first.

    `refuse` closes the connection unread, `hang` answers after `hang_seconds`, when nobody listens any more, and does
    what was asked; `error` is a 500 before the work; `half` sends half of the answer, `cut` none, both after the work.
    """

    seed: int = 0
    probability: float = 0.0
    hang_seconds: float = 1.5
    delay_seconds: float = 0.0
    faults: tuple[str, ...] = FAULTS
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._round: list[str] = []

    def next(self) -> str | None:
        """Draw the fate of a request."""
        fault = self._drawn() if self._random.random() < self.probability else None
        if fault == "hang" and self.seen["hang"] == MAX_HANGS:
            fault = "cut"
        self.seen[fault or "plain"] += 1
        return fault

    def _drawn(self) -> str:
        if not self._round:
            self._round = self._random.sample(self.faults, len(self.faults))
        return self._round.pop()


@dataclass
class StoredRun:
    """A run as the server has it; `points` are (metric, step, value, timestamp) in the order in which they came."""

    info: Body
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    points: list[tuple[str, int, float, int]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def as_json(self) -> Body:
        """Return the run as MLflow's REST shows it."""
        newest = {name: (step, value, at) for name, step, value, at in sorted(self.points, key=lambda p: (p[1], p[3]))}
        metrics = [_metric(name, step, value, at) for name, (step, value, at) in newest.items()]
        data = {"tags": _pairs(self.tags), "params": _pairs(self.params), "metrics": metrics}
        outputs = {"model_outputs": [{"model_id": one, "step": 0} for one in self.outputs]}
        return {"info": self.info, "data": data, "outputs": outputs}


class Refusal(Exception):
    """An answer with MLflow's error code."""

    def __init__(self, code: str, status: int, message: str) -> None:
        self.code, self.status = code, status
        super().__init__(message)


class StandIn:
    """The state of a server and the requests that it answers."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, StoredRun] = {}
        self.models: dict[str, Body] = {}
        self.files: dict[str, bytes] = {}
        self.lock = threading.RLock()

    def answer(self, method: str, path: str, body: Body) -> Body:
        """Carry out a request. Raises Refusal."""
        if path.startswith("logged-models"):
            return self._model(method, path, body)
        do: Callable[[Body], Body] | None = getattr(self, "_" + path.replace("/", "_").replace("-", "_"), None)
        if do is None:
            raise Refusal("ENDPOINT_NOT_FOUND", 404, path)
        return do(body)

    def _experiments_search(self, _: Body) -> Body:
        return {"experiments": [self._experiment(name) for name in self.experiments]}

    def _experiments_get_by_name(self, body: Body) -> Body:
        if body["experiment_name"] not in self.experiments:
            raise Refusal("RESOURCE_DOES_NOT_EXIST", 404, "no such experiment")
        return {"experiment": self._experiment(body["experiment_name"])}

    def _experiments_create(self, body: Body) -> Body:
        if body["name"] in self.experiments:
            raise Refusal("RESOURCE_ALREADY_EXISTS", 400, "is there")
        self.experiments[body["name"]] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[body["name"]]}

    def _experiment(self, name: str) -> Body:
        number = self.experiments[name]
        return {"experiment_id": number, "name": name, "artifact_location": f"mlflow-artifacts:/{number}"}

    def _runs_create(self, body: Body) -> Body:
        run_id = uuid.uuid4().hex
        info = {
            "run_id": run_id,
            "run_uuid": run_id,
            "run_name": body["run_name"],
            "experiment_id": body["experiment_id"],
            "status": "RUNNING",
            "start_time": int(body["start_time"]),
            "lifecycle_stage": "active",
            "artifact_uri": f"mlflow-artifacts:/{body['experiment_id']}/{run_id}/artifacts",
        }
        self.runs[run_id] = StoredRun(info, {tag["key"]: tag["value"] for tag in body.get("tags", ())})
        return {"run": self.runs[run_id].as_json()}

    def _runs_get(self, body: Body) -> Body:
        return {"run": self._run(body).as_json()}

    def _runs_search(self, body: Body) -> Body:
        wanted = dict(re.findall(r"tags\.`([^`]+)` = '([^']*)'", body.get("filter", "")))
        status = re.search(r"attributes\.status = '(\w+)'", body.get("filter", ""))
        found = [
            run.as_json()
            for run in reversed(self.runs.values())
            if run.info["experiment_id"] in body["experiment_ids"]
            and wanted.items() <= run.tags.items()
            and (status is None or run.info["status"] == status[1])
        ]
        return {"runs": found[: int(body.get("max_results", 1000))]}

    def _runs_update(self, body: Body) -> Body:
        run = self._run(body)
        run.info |= {name: body[name] for name in ("status", "end_time") if name in body}
        return {"run_info": run.info}

    def _runs_log_batch(self, body: Body) -> Body:
        run = self._run(body)
        for param in body.get("params", ()):
            if run.params.get(param["key"], param["value"]) != param["value"]:
                raise Refusal("INVALID_PARAMETER_VALUE", 400, f"Changing param values is not allowed: {param['key']}")
        run.params |= {param["key"]: param["value"] for param in body.get("params", ())}
        for metric in body.get("metrics", ()):
            point = (metric["key"], int(metric.get("step", 0)), float(metric["value"]), int(metric["timestamp"]))
            run.points.append(point)
        run.tags |= {tag["key"]: tag["value"] for tag in body.get("tags", ())}
        return {}

    def _runs_delete_tag(self, body: Body) -> Body:
        if self._run(body).tags.pop(body["key"], None) is None:
            raise Refusal("RESOURCE_DOES_NOT_EXIST", 404, "no such tag")
        return {}

    def _runs_outputs(self, body: Body) -> Body:
        self._run(body).outputs += [model["model_id"] for model in body["models"]]
        return {}

    def _metrics_get_history(self, body: Body) -> Body:
        points = [point for point in self._run(body).points if point[0] == body["metric_key"]]
        return {"metrics": [_metric(*point) for point in points]}

    def _model(self, method: str, path: str, body: Body) -> Body:
        _, _, model_id = path.partition("/")
        if model_id == "search":
            wanted = dict(re.findall(r"tags\.`([^`]+)` = '([^']*)'", body.get("filter", "")))
            source = re.search(r"source_run_id = '(\w+)'", body.get("filter", ""))
            found = [
                model
                for model in self.models.values()
                if (source is None or model["info"]["source_run_id"] == source[1])
                and wanted.items() <= {tag["key"]: tag["value"] for tag in model["info"]["tags"]}.items()
            ]
            return {"models": found}
        if not model_id:
            name = f"m-{uuid.uuid4().hex}"
            info = {
                "model_id": name,
                "experiment_id": body["experiment_id"],
                "name": body["name"],
                "source_run_id": body["source_run_id"],
                "tags": body["tags"],
                "status": "LOGGED_MODEL_PENDING",
                "artifact_uri": f"mlflow-artifacts:/{body['experiment_id']}/models/{name}/artifacts",
            }
            self.models[name] = {"info": info, "data": {}}
            return {"model": self.models[name]}
        model = self.models[model_id.partition("/")[0]]
        if method == "PATCH":
            model["info"]["status"] = body["status"]
        return {"model": model}

    def _run(self, body: Body) -> StoredRun:
        run_id = body.get("run_id") or body.get("run_uuid")
        if run_id not in self.runs:
            raise Refusal("RESOURCE_DOES_NOT_EXIST", 404, f"no run {run_id}")
        return self.runs[run_id]


@contextmanager
def serving(stand_in: StandIn, port: int = 0) -> Iterator[str]:
    """Serve on loopback and return the URI."""

    class Handler(_Handler):
        state = stand_in

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class _Handler(BaseHTTPRequestHandler):
    state: StandIn
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.state.lock:
            fault = self.state.schedule.next()
        time.sleep(self.state.schedule.delay_seconds)
        if fault == "refuse":
            self._cut()
            return
        if fault == "error":
            self._send(500, b"a proxy's page, which is no JSON")
            return
        if fault == "hang":
            time.sleep(self.state.schedule.hang_seconds)
        with self.state.lock:
            status, answer = self._carried_out(content)
        if fault in ("cut", "hang"):
            self._cut()
        elif fault == "half":
            self._send(status, answer, sent=len(answer) // 2)
            self._cut()
        else:
            self._send(status, answer)

    def _carried_out(self, content: bytes) -> tuple[int, bytes]:
        url = urlsplit(self.path)
        if url.path.startswith(FILES):
            return self._file(unquote(url.path.removeprefix(FILES)).strip("/"), parse_qs(url.query), content)
        body = {key: values[0] for key, values in parse_qs(url.query).items()}
        body |= json.loads(content) if content else {}
        try:
            answer = self.state.answer(self.command, url.path.removeprefix(API), body)
        except Refusal as refusal:
            return refusal.status, json.dumps({"error_code": refusal.code, "message": str(refusal)}).encode()
        return 200, json.dumps(answer).encode()

    def _file(self, path: str, query: dict[str, list[str]], content: bytes) -> tuple[int, bytes]:
        files = self.state.files
        if self.command == "PUT":
            files[path] = content
            return 200, b"{}"
        if path:
            return (200, files[path]) if path in files else (404, b"{}")
        folder = query["path"][0].strip("/")
        names = {name.removeprefix(f"{folder}/").partition("/")[0] for name in files if name.startswith(f"{folder}/")}
        listed = [{"path": name, "is_dir": f"{folder}/{name}" not in files} for name in sorted(names)]
        return 200, json.dumps({"files": listed}).encode()

    def _send(self, status: int, answer: bytes, sent: int | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[:sent])

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 (the names that http.server looks for)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _metric(name: str, step: int, value: float, timestamp: int) -> Body:
    return {"key": name, "value": value, "timestamp": timestamp, "step": step}


def _pairs(values: dict[str, str]) -> list[Body]:
    return [{"key": key, "value": value} for key, value in values.items()]
