"""ccray: Creative-Commons images to an open text-to-image model, on Ray.

The corridor is catalog -> caption -> encode -> train -> evaluate -> publish -> serve. Every stage reads directories under one root and
writes another one with a manifest. Start reading at `recipes/`, then `schema.py`, then `stages/caption.py`.
"""

__version__ = "0.1.0"
