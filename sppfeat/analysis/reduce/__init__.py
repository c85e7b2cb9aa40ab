"""The room `reduce`."""
