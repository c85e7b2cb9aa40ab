"""The rows that are nearest to an image, a box or a row, exactly."""
