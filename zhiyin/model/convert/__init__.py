"""Foreign checkpoint layouts to ours. Pure functions on tensors: reading and writing files is `checkpoint`'s."""
