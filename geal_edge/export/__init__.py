"""Weights become a bundle: the ONNX graph, its check against float64, the reference frames."""
