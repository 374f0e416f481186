"""Fine-tune one encoder on several sentence tasks at once, and publish the one model that answers them all."""

__version__ = "0.1.0"
