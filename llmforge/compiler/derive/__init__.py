"""What follows: one module per kind of `auto`; each pass is a pure function Context -> Step."""
