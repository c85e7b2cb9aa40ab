"""Who does an extraction instead of this process; the packages for that are imported where they are used."""
