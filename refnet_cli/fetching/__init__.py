"""From a place and dates to files for prediction and training, out of public catalogues."""
