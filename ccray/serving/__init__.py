"""The endpoint without its host: the wire (wire, app), the engine behind it, the marks on every picture, and the page."""
