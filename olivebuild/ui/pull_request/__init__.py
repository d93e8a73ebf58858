"""What a pull request changes of builds and figures, and the comment that tells it."""
