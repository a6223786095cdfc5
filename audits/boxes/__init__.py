"""What is wrong with boxes."""
