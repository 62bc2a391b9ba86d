"""What a learner gets: array codec, observation helpers, judge and check. Needs numpy and torch only."""
