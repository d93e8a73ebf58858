"""What people see: terminal output, the report, trackers. Changes nothing."""
