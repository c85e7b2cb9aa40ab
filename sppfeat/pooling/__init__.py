"""The room `pooling`."""
