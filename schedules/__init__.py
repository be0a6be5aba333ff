"""What is computed when: schedules, their generators and their lowering. Knows nothing of torch modules."""
