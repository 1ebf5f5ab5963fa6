"""What is true of challenges, codes and policies: pure, without I/O and without a clock of its own."""
