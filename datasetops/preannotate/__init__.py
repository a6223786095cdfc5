"""Labels by models: what they say about images, what of it becomes annotations, and how often that is right."""
