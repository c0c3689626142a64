"""Every study of a folder, night after night, within a budget of hours: what to run, and whether it got better."""
