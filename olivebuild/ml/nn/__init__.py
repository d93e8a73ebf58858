"""Parts of a training's network: forward pass, packing, attention, LoRA, loss."""
