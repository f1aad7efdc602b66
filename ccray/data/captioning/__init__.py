"""Captions: made by model workers, checked, counted and shown."""
