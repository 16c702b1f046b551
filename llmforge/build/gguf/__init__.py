"""A model folder as one GGUF file, and the proof that the file holds the same model."""
