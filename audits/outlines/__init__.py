"""What is wrong with polygons, masks and keypoints."""
