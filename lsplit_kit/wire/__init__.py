"""What crosses: messages, links that carry them, taps that record them, ledgers that add them up."""
