"""Corpora into training batches."""
