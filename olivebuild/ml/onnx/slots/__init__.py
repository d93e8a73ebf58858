"""Slots of ONNX models for adapters, and the files that fill them."""
