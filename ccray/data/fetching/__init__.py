"""From a listed row to bytes: downloads from strangers, files and rows at hand, opt-outs, and what is withheld."""
