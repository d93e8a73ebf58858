"""Conversion to ONNX: skeletons, assembly, the model builder, and proofs of what it gives."""
