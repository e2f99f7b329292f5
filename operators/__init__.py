"""Forward operators: one operator, or one family, a file."""
