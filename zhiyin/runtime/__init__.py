"""Runs the three components anywhere behind one small protocol; generation and batching above it."""
