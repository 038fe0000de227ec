"""What the commands of launch/ do, once their command lines are read."""
