"""What a whole set holds, and how it differs from another."""
