"""CLIP models: the registry, checkpoints, tokenizers, encoders."""
