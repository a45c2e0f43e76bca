"""From a job that can be claimed to one that has ended: claims, runs, deadlines, drain."""
