"""Which files a checkpoint has, whether they are here, and whether they are right."""
