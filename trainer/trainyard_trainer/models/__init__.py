"""Model architectures, by Transformers configurations."""
