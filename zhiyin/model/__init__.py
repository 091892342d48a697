"""The network in PyTorch, and weights in and out (extra `train`)."""
