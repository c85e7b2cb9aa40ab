"""The room `boxes`."""
