"""Which fetched images may be used: verdicts, duplicates with everybody who made them, the tables and their report."""
