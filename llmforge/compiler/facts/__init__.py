"""Facts about models, data and machines that the compiler reads without importing torch."""
