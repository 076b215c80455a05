"""What ``sam2fast demo`` shows."""
