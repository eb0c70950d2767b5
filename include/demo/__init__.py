"""What the demo and the tests start: real servers on the loopback, each ended by whoever started it."""
