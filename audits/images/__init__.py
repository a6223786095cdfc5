"""What is wrong with images, and which are alike."""
