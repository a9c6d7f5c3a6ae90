"""Dense segmentation on images and masks of one's own: data sets, training, scores."""
