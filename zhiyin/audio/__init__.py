"""Any recording to mono 16 kHz, log-mel features, speech spans and windows. numpy only in this room."""
