"""Manifests through the pipeline, figures, and a report one can look at."""
