"""Events to a spool on disk, and from there to MLflow. The only room that imports mlflow, in a background thread."""

import os

from fttune.tracking.spool import Target
from fttune.tracking.uploader import Uploader

# Set before mlflow is imported, which is the case in this room alone. It would report usage over the network, print to
# stdout, and try a request anew that may have been carried out: points would then be stored twice. A request that
# hangs is given up after this long. Models are never unpickled.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"

__all__ = ["Target", "Uploader"]
