"""Pictures on their way to the denoiser: listed, fetched, decoded, captioned, encoded, loaded. Plain callables, no Ray."""
