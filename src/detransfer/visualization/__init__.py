"""Pictures of images with what networks make of them."""
