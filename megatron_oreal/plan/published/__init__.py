"""What others published of their runs, beside what the planner's operations say of the same: what it can be believed."""
