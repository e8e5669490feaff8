"""From sources of text to packed rows of tokens."""
