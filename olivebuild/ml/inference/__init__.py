"""Models that answer: runtimes, generation, predictions, the chat process."""
