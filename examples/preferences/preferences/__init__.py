"""A project of one's own beside llmforge: `components` registers, `parts` works."""
