"""A finished model with fewer bits: ways to round, calibration, and what it costs."""
