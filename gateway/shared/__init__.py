"""What the replicas of a gateway have in common, in Redis or Valkey."""
