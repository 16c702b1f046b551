"""An adapter merged into its base, and the proof that the result is the same model."""
