"""Bringing a model to a machine: what is there, what fits, what is proven."""
