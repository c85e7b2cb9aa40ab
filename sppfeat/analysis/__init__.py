"""What is done with finished feature files."""
