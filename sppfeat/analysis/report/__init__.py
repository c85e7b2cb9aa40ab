"""One page about a feature file: what is found of it, apart from how it is shown."""
