"""Latents and captions as training batches, in an order that takedowns change only between rounds."""
