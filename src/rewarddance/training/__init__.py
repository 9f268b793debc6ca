"""Learning: loops, checkpoints, schedules and what they write down."""
