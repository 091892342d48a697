"""One small file per corpus: its rows to our records. None downloads anything."""
