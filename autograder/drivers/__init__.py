"""How a solution to an exercise is run, one module a topic; learners get these too."""
