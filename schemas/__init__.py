"""Label schemas that come with dsops; copy one to start your own."""
