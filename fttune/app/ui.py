"""How MLflow's own server is started for one person on this machine. Knows its options, not MLflow."""

import sys
from collections.abc import Mapping

from fttune.config.workspace import Workspace

HOST = "127.0.0.1"
# What the environment may say of a shared server does not hold for this one; what it does not need stays off.
SAFE = {
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a queue of pickles, and processes that take from it
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
}


def server_command(workspace: Workspace, port: int) -> list[str]:
    """Return the command that serves a workspace's runs on the loopback address, to requests that name it as host.

    Without the check of the host a page elsewhere, whose name is made to point here, could read the runs (DNS
    rebinding); without the one of the origin it could change them.
    """
    names = [f"{name}:{port}" for name in (HOST, "localhost")]
    options = {
        "--backend-store-uri": workspace.mlflow_uri,
        "--default-artifact-root": workspace.artifacts.as_uri(),
        "--host": HOST,
        "--port": str(port),
        "--allowed-hosts": ",".join(names),
        "--cors-allowed-origins": ",".join(f"http://{name}" for name in names),
        "--x-frame-options": "DENY",
        "--workers": "2",
    }
    given = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", *given, "--no-serve-artifacts"]  # uploads go to ./mlartifacts


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of that server."""
    return {"MLFLOW_DISABLE_TELEMETRY": "true", **environment, **SAFE}
