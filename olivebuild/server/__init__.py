"""An endpoint in the form of OpenAI's, in front of a model process."""
