"""One verb, one file: prepare, train, evaluate, generate."""
