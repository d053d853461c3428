"""What runs on the vehicle. Start reading at `pipeline.py`; nothing here imports onnx, torch, scikit-learn or a hub client."""
