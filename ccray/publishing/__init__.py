"""Giving it away: what a published model or dataset folder tells of itself, and of every image and component in it."""
