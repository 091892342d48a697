"""Stages as data and a loop that reads top to bottom (extra `train`)."""
