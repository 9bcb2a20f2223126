"""Names to weights: tokenizers, chat templates, the model catalogue."""
