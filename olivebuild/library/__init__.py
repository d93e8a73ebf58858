"""The Python API, `import olivebuild as ob`, and what the command line shares with it."""
