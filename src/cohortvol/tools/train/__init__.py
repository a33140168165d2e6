"""Training a model from images and label maps, through nnU-Net's own stages."""
