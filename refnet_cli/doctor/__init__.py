"""What refnet finds on this machine, and whether predicting works there."""
