"""How well a linear classifier tells classes apart, the classifier itself, and what it says of other rows."""
