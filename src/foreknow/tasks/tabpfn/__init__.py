"""The published network of tables: row tokens, and its later form with a token per cell."""
