"""Pushes of exports: to the Hugging Face hub and to Azure ML, each by a process of its own."""
