"""Settings, model, losses and the training loop."""
