"""The whole decision as data: pass configs, the plan that holds them, its file, its conditions and its certificate."""
