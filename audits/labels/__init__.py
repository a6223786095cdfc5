"""What is wrong with classes of whole images."""
