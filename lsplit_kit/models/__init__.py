"""Named models: where they are kept, how they are fetched, verified, converted and loaded."""
