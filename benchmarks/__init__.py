"""One program for each number of the design's table: both sides measured in one run, one JSON line printed."""
