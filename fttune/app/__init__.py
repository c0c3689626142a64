"""The only place that joins searching, tracking and report; each job in a module of its own."""
