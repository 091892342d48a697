"""What can be asked of a recording and what comes back. No torch and no audio in this room."""
