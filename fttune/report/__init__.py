"""What was found, for people and scripts: tables of trials, and figures. Knows neither Optuna nor MLflow.

`fttune.report.figures` is not imported here: it needs matplotlib, and a table does not.
"""

from fttune.report.table import TrialRow, as_records, as_text, distinct_recipes, summary, table

__all__ = ["TrialRow", "as_records", "as_text", "distinct_recipes", "summary", "table"]
