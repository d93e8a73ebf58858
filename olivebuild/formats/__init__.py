"""File formats of models, adapters and ONNX folders, read without running what they name."""
