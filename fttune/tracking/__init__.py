"""Events to MLflow. The only room that imports mlflow, and only in its background thread."""

from fttune.tracking.uploader import Uploader

__all__ = ["Uploader"]
