"""Judging a model: pictures for prompts, figures about them, and pages that people read."""
