"""The course: exercises with checks that never raise, an environment doctor, and repeatable runs."""
