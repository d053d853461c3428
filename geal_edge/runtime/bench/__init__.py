"""What a bundle costs on this machine (`geal-edge bench`)."""
