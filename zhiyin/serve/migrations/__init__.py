"""How the tables came to be: one file in `versions/` for each step, applied by `serve.database.open`."""
