"""The stand-in: a small checkpoint of the published layout, whose numbers are written down."""
