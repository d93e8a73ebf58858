"""What clients of a remote cache say to each other: leases, marks of uploads and of use."""
