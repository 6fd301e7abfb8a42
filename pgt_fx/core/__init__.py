"""What every other part rests on: no graph, no capture."""
