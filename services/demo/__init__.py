"""The demo task: a small arithmetic world in which a laptop CPU can watch TreeRL learn."""
