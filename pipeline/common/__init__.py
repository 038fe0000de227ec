"""What every other package of the project rests on: errors, files, configuration, progress, how a command starts."""
