"""Where samples, annotations, versions and models came from, and what depends on what."""
