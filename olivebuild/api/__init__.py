"""What a plug-in implements or is handed: kinds, nodes, actions, jobs, events, executors."""
