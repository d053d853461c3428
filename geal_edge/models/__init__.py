"""What a model is: ViT geometry, checkpoint files, preprocessing, and the bundle that a vehicle receives."""
