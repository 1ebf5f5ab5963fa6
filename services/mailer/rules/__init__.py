"""What is true of letters: pure, without I/O and without a clock of its own."""
