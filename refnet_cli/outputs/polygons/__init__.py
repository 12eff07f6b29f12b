"""The class map as polygons."""
