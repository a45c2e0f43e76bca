"""Videos and uploads: how they are kept, found, linked to and removed."""
