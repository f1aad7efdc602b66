"""One file per catalog format; each has `open_source(config)`, which refuses at the door, and lists its pictures without fetching any."""
