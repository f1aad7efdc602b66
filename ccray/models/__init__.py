"""The pretrained and trained parts, each on one device: thin, because diffusers and transformers do the modelling."""
