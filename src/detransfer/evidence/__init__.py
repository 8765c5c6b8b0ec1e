"""What runs of all tasks say, image by image: what claims and controls are tested on."""
