"""The scorecard: what a sceptical reviewer asks of a memory, E01 to E31, as one study."""
