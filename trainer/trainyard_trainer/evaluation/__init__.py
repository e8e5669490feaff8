"""How well a fine-tuned model does its task: metrics, intervals, and which checkpoint is the best."""
