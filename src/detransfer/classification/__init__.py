"""Image classification: fine-tuning and evaluation."""
