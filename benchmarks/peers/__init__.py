"""What is timed. Each module is a worker, which takes a turn for each line on stdin."""
