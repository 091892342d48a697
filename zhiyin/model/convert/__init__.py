"""Weights of others to ours: how they lie on the disk, whose layout they have, and what becomes of every key."""
