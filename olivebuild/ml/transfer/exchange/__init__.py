"""Jobs on machines that share no folder with this one: their inputs and outputs through a URL."""
