"""The training loop and its parts: torch, no Ray; it runs on one process or under any launcher that gives it a `Runtime`."""
