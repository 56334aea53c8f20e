"""Files and environment in, frozen values out, or every mistake at once."""
