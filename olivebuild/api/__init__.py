"""Interfaces that a plug-in implements or is handed: kinds, actions, jobs, events, executors."""
