"""Scoring normalisation and guards against invented text."""
