"""Other people's data formats to our records and back; `table.py` lists them."""
