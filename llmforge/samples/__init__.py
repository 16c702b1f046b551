"""Example data that the project writes itself, so that a first run needs no download."""
