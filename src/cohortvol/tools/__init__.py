"""What stands beside the flow: a tool may read what a stage wrote, and imports no other tool."""
