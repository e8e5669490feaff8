"""From labelled records to examples: what fine-tuning for a task reads."""
