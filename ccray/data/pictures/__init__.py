"""From bytes to pixels: decoding in a process of its own, colours, endings, perceptual hashes, scores."""
