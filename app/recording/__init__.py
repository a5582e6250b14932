"""What happened: usage, cost, outcome; settled once and brought to SQL once."""
