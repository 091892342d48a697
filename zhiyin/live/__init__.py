"""Speech understood while it is spoken (docs/live.md)."""
