"""What people who label say, how far they agree, and how they change."""
