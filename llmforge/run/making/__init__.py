"""What is made of a finished model: orders, what they need, and what is kept of them."""
