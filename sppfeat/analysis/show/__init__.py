"""Pictures, one module each; what they share is in ``figure``."""
