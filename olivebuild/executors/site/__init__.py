"""Steps on other machines: actions that can travel, jobs that run them, and the agent between."""
