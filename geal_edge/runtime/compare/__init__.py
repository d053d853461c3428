"""What a budget buys on recorded drives: strategies side by side (`geal-edge compare`)."""
