"""From a listed row to bytes: downloads from strangers, files and rows at hand, and opt-outs."""
