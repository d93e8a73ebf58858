"""Arithmetic on weights, bit-equal to torch's and ONNX Runtime's."""
