"""The database: its tables, their rows, upgrades. The only place with SQLite's own words."""
